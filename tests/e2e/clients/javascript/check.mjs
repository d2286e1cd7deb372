// The official JavaScript client, unmodified, against a Windlass: node check.mjs KUBECONFIG NAMESPACE IMAGE.
// Each check prints `ok NAME`; the first that fails ends the program with its error.

import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

const [kubeconfig, namespace, image] = process.argv.slice(2);
const LIMIT = 60_000;
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

async function until(what, condition) {
  for (const end = Date.now() + LIMIT; Date.now() < end; ) {
    const value = await condition();
    if (value) return value;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`${what}: not within ${LIMIT / 1000} s`);
}

async function failsWith(code, reason, call) {
  await assert.rejects(call, (error) => {
    const status = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
    assert.equal(error.code, code, error.message);
    assert.equal(status.reason, reason);
    return true;
  });
}

const labels = { from: 'javascript' };
const configMap = (name, data = {}) => ({ metadata: { name, labels }, data });
const pod = (name, command) => ({
  metadata: { name },
  spec: { terminationGracePeriodSeconds: 0, containers: [{ name: 'main', image, command, imagePullPolicy: 'Never' }] },
});

async function objectsAreCreatedReadReplacedPatchedAndDeleted() {
  const made = await core.createNamespacedConfigMap({ namespace, body: configMap('one', { a: '1' }) });
  assert.ok(made.metadata.creationTimestamp instanceof Date);
  await failsWith(409, 'AlreadyExists', core.createNamespacedConfigMap({ namespace, body: configMap('one') }));
  made.data = { a: '2' };
  await core.replaceNamespacedConfigMap({ name: 'one', namespace, body: made });
  await failsWith(409, 'Conflict', core.replaceNamespacedConfigMap({ name: 'one', namespace, body: made }));
  const patched = await core.patchNamespacedConfigMap(
    { name: 'one', namespace, body: { data: { b: '3' } } },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch),
  );
  assert.deepEqual(patched.data, { a: '2', b: '3' });
  await core.deleteNamespacedConfigMap({ name: 'one', namespace });
  await failsWith(404, 'NotFound', core.readNamespacedConfigMap({ name: 'one', namespace }));
}

async function serverSideApplyKnowsItsOwners() {
  const object = (value) => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'applied', namespace }, data: { value } });
  const apply = (value, manager, force) =>
    objects.patch(object(value), undefined, undefined, manager, force, k8s.PatchStrategy.ServerSideApply);
  const first = await apply('1', 'first');
  assert.equal(first.metadata.managedFields[0].operation, 'Apply');
  await failsWith(409, 'Conflict', apply('2', 'second'));
  const forced = await apply('2', 'second', true);
  // Who owns nothing any more is not listed.
  assert.deepEqual([forced.data.value, forced.metadata.managedFields.map((m) => m.manager)], ['2', ['second']]);
  await objects.delete(object('2'));
}

async function anInformerFollowsEveryChange() {
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'from=javascript' });
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, 'from=javascript');
  const seen = [];
  for (const event of ['add', 'update', 'delete']) informer.on(event, (o) => seen.push(`${event} ${o.data.n}`));
  const failed = new Promise((_, reject) => informer.on('error', reject));
  const follow = async () => {
    await informer.start();
    await core.createNamespacedConfigMap({ namespace, body: configMap('informed', { n: '0' }) });
    await until('the object is in the cache', () => informer.get('informed', namespace));
    const body = [{ op: 'replace', path: '/data/n', value: '1' }];
    await core.patchNamespacedConfigMap(
      { name: 'informed', namespace, body },
      k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch),
    );
    await core.deleteNamespacedConfigMap({ name: 'informed', namespace });
    await until('the object has left the cache', () => !informer.get('informed', namespace));
    await until('all events came', () => seen.length >= 3);
  };
  await Promise.race([follow(), failed]);
  await informer.stop();
  assert.deepEqual(seen, ['add 0', 'update 1', 'delete 1']);
}

async function aDeploymentIsRolledOutAndScaled() {
  const container = { name: 'main', image, command: ['sleep', '3600'], imagePullPolicy: 'Never' };
  const app = { app: 'javascript' };
  const spec = {
    replicas: 1,
    selector: { matchLabels: app },
    template: { metadata: { labels: app }, spec: { containers: [container], terminationGracePeriodSeconds: 0 } },
  };
  await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'js' }, spec } });
  const available = async (n) =>
    (await apps.readNamespacedDeploymentStatus({ name: 'js', namespace })).status.availableReplicas === n;
  await until('one replica is available', () => available(1));
  const scale = await apps.readNamespacedDeploymentScale({ name: 'js', namespace });
  scale.spec.replicas = 2;
  await apps.replaceNamespacedDeploymentScale({ name: 'js', namespace, body: scale });
  await until('two replicas are available', () => available(2));
  await apps.deleteNamespacedDeployment({ name: 'js', namespace, propagationPolicy: 'Foreground' });
}

async function logsAndExecReachTheContainer() {
  await core.createNamespacedPod({ namespace, body: pod('streams', ['sh', '-c', 'echo began; exec sleep 3600']) });
  await until('the pod runs', async () => (await core.readNamespacedPod({ name: 'streams', namespace })).status.phase === 'Running');
  const text = new PassThrough();
  let log = '';
  text.on('data', (piece) => (log += piece));
  const following = await new k8s.Log(config).log(namespace, 'streams', 'main', text, { follow: true });
  await until('its log is there', () => log === 'began\n');
  following.abort();
  const [out, err, input] = [new PassThrough(), new PassThrough(), new PassThrough()];
  let [said, complained] = ['', ''];
  out.on('data', (piece) => (said += piece));
  err.on('data', (piece) => (complained += piece));
  const ended = new Promise((done, failed) => {
    const command = ['sh', '-c', 'read line; echo "got $line"; echo err >&2; exit 3'];
    new k8s.Exec(config).exec(namespace, 'streams', 'main', command, out, err, input, false, done).catch(failed);
  });
  input.write('typed\n');
  const status = await ended;
  await until('what it said is there', () => said === 'got typed\n' && complained === 'err\n');
  assert.equal(status.details.causes.find((c) => c.reason === 'ExitCode').message, '3');
  await core.deleteNamespacedPod({ name: 'streams', namespace });
}

for (const check of [
  objectsAreCreatedReadReplacedPatchedAndDeleted,
  serverSideApplyKnowsItsOwners,
  anInformerFollowsEveryChange,
  aDeploymentIsRolledOutAndScaled,
  logsAndExecReachTheContainer,
]) {
  await check();
  console.log('ok', check.name);
}
process.exit(0);
