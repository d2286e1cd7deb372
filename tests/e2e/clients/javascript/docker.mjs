// dockerode, unmodified, against a Windlass: node docker.mjs SOCKET PREFIX IMAGE.
// Each check prints `ok NAME`; the first that fails ends the program with its error.

import assert from 'node:assert/strict';
import { PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import Docker from 'dockerode';

const [socketPath, prefix, image] = process.argv.slice(2);
const LIMIT = 60_000;
const docker = new Docker({ socketPath });
const named = (name) => `${prefix}-js-${name}`;

async function until(what, condition) {
  for (const end = Date.now() + LIMIT; Date.now() < end; ) {
    const value = await condition();
    if (value) return value;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`${what}: not within ${LIMIT / 1000} s`);
}

const failsWith = (statusCode, words, call) =>
  assert.rejects(call, (error) => {
    assert.equal(error.statusCode, statusCode, error.message);
    assert.match(error.message, words);
    return true;
  });

// The two streams of an attached connection, read to their ends.
async function apart(stream) {
  const [out, err] = [new PassThrough(), new PassThrough()];
  docker.modem.demuxStream(stream, out, err);
  stream.on('end', () => (out.end(), err.end()));
  return Promise.all([text(out), text(err)]);
}

async function containersRunAndSayHowTheyEnded() {
  const out = new PassThrough();
  const said = text(out);
  const [{ StatusCode }, container] = await docker.run(image, ['sh', '-c', 'echo hello; exit 3'], out, { name: named('run') });
  out.end();
  assert.deepEqual([StatusCode, await said], [3, 'hello\r\n']);
  assert.equal((await container.inspect()).State.ExitCode, 3);
  const filters = { name: [`^/${named('run')}$`] };
  assert.deepEqual((await docker.listContainers({ all: true, filters })).map((c) => c.Id), [container.id]);
  await container.remove();
  await failsWith(404, /No such container/, container.inspect());
  await failsWith(404, /No such image/, docker.createContainer({ Image: `${prefix}/none:1` }));
}

async function inputGoesInAndStreamsAreToldApart() {
  const options = { Image: image, Cmd: ['sh', '-c', 'read line; echo "got $line"; echo err >&2'], OpenStdin: true, StdinOnce: true };
  const container = await docker.createContainer(options);
  const stream = await container.attach({ stream: true, hijack: true, stdin: true, stdout: true, stderr: true });
  const said = apart(stream);
  await container.start();
  stream.end('typed\n');
  assert.deepEqual(await said, ['got typed\n', 'err\n']);
  assert.equal((await container.wait()).StatusCode, 0);
  await container.remove();
}

async function commandsRunInAContainer() {
  const container = await docker.createContainer({ Image: image, Cmd: ['sleep', '1000'], name: named('box') });
  await container.start();
  const exec = await container.exec({ Cmd: ['sh', '-c', 'cat; echo e >&2; exit 4'], AttachStdin: true, AttachStdout: true, AttachStderr: true });
  const stream = await exec.start({ hijack: true, stdin: true });
  const said = apart(stream);
  stream.end('in\n');
  assert.deepEqual(await said, ['in\n', 'e\n']);
  await until('it has ended', async () => !(await exec.inspect()).Running);
  assert.equal((await exec.inspect()).ExitCode, 4);
  const top = await container.top();
  assert.ok(top.Processes.some((row) => row.join(' ').includes('sleep 1000')), JSON.stringify(top));
  const stats = await container.stats({ stream: false });
  assert.ok(stats.memory_stats.usage > 0, JSON.stringify(stats));
  await container.remove({ force: true });
}

async function logsAreFollowedAndFilesCopied() {
  const container = await docker.createContainer({ Image: image, Cmd: ['sh', '-c', 'for n in 1 2 3; do echo $n; done; echo file > /file'] });
  await container.start();
  const log = await container.logs({ follow: true, stdout: true, stderr: true });
  assert.deepEqual(await apart(log), ['1\n2\n3\n', '']);
  assert.equal((await container.wait()).StatusCode, 0);
  const archive = await text(await container.getArchive({ path: '/file' }));
  assert.ok(archive.startsWith('file\0') && archive.includes('file\n'));
  const diff = await container.changes();
  assert.ok(diff.some((c) => c.Path === '/file' && c.Kind === 1), JSON.stringify(diff));
  await container.remove();
}

async function networksAndVolumesAreMadeUsedAndRemoved() {
  const network = await docker.createNetwork({ Name: named('net'), Labels: { of: prefix } });
  const volume = await docker.createVolume({ Name: named('kept') });
  const HostConfig = { NetworkMode: named('net'), Binds: [`${named('kept')}:/kept`] };
  const page = ['sh', '-c', 'mkdir /www; echo page > /www/index.html; echo kept > /kept/file; exec httpd -f -p 80 -h /www'];
  const web = await docker.createContainer({ Image: image, name: named('web'), Cmd: page, HostConfig });
  await web.start();
  const seek = async () => {
    const [out, err] = [new PassThrough(), new PassThrough()];
    const said = text(out);
    const command = ['wget', '-q', '-O', '-', `http://${named('web')}/`];
    await docker.run(image, command, [out, err], { Tty: false, HostConfig: { AutoRemove: true, ...HostConfig } });
    out.end();
    return (await said) === 'page\n';
  };
  await until('the page is found by name', seek);
  assert.deepEqual(Object.values((await network.inspect()).Containers).map((c) => c.Name), [named('web')]);
  await failsWith(403, /has active endpoints/, network.remove());
  await failsWith(409, /volume is in use/, volume.remove());
  await web.remove({ force: true });
  await network.remove();
  await volume.remove();
  await failsWith(404, /no such volume/, volume.inspect());
}

async function imagesAreBuiltTaggedAndRemoved() {
  const tag = `${prefix}/javascript:1`;
  const file = Readable.from([`FROM ${image}\nRUN echo made > /made\nCMD cat /made\n`]);
  // A folder packed by the library itself.
  const { mkdtemp, writeFile } = await import('node:fs/promises');
  const context = await mkdtemp(`${process.env.TMPDIR ?? '/tmp'}/windlass-js-`);
  await writeFile(`${context}/Dockerfile`, await text(file));
  const stream = await docker.buildImage({ context, src: ['Dockerfile'] }, { t: tag });
  const lines = await new Promise((done, failed) => docker.modem.followProgress(stream, (e, all) => (e ? failed(e) : done(all))));
  assert.ok(lines.some((l) => l.stream?.includes(`Successfully tagged ${tag}`)), JSON.stringify(lines));
  await (await import('node:fs/promises')).rm(context, { recursive: true });
  const out = new PassThrough();
  const said = text(out);
  await docker.run(tag, [], out, { HostConfig: { AutoRemove: true } });
  out.end();
  assert.equal(await said, 'made\r\n');
  await docker.getImage(tag).tag({ repo: `${prefix}/javascript`, tag: '2' });
  assert.ok((await docker.getImage(tag).history()).length > 1);
  await docker.getImage(`${prefix}/javascript:2`).remove();
  // Its container goes by itself, a moment after it was waited for.
  await until('the image is nobody\'s', () => docker.getImage(tag).remove().catch((error) => assert.equal(error.statusCode, 409)));
}

async function eventsComeAsTheyHappen() {
  const stream = await docker.getEvents({ filters: { label: [`events=${prefix}`] } });
  const seen = [];
  let rest = '';
  stream.on('data', (piece) => {
    const lines = (rest + piece).split('\n');
    rest = lines.pop();
    seen.push(...lines.filter(Boolean).map((l) => JSON.parse(l).Action));
  });
  const container = await docker.createContainer({ Image: image, Cmd: ['true'], Labels: { events: prefix } });
  await container.start();
  await container.wait();
  await until('all events came', () => seen.includes('die'));
  stream.destroy();
  assert.deepEqual(seen.slice(0, 3), ['create', 'start', 'die']);
  await container.remove();
}

for (const check of [
  containersRunAndSayHowTheyEnded,
  inputGoesInAndStreamsAreToldApart,
  commandsRunInAContainer,
  logsAreFollowedAndFilesCopied,
  networksAndVolumesAreMadeUsedAndRemoved,
  imagesAreBuiltTaggedAndRemoved,
  eventsComeAsTheyHappen,
]) {
  await check();
  console.log('ok', check.name);
}
process.exit(0);
