use super::*;

fn ok(text: &str) -> Dockerfile {
    parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn ops(body: &str) -> Vec<Op> {
    let file = ok(&format!("FROM x\n{body}"));
    file.stages[0].instructions.iter().map(|i| i.op.clone()).collect()
}

fn op(line: &str) -> Op {
    ops(line).remove(0)
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn stages_arguments_and_directives_are_read() {
    let text = "# syntax=docker/dockerfile:1\n# escape=`\n\nARG V=1\nFROM --platform=$BUILDPLATFORM a:$V AS Build\n\
                RUN x `\n  # a comment\n\n  y\nFROM build\nFROM scratch\n";
    let file = ok(text);
    assert_eq!(file.directives.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(file.directives.escape, '`');
    assert_eq!(file.global[0].op, Op::Arg(vec![("V".into(), Some("1".into()))]));
    assert_eq!(file.stages.len(), 3);
    let first = &file.stages[0];
    assert_eq!((first.name.as_deref(), first.base.as_str()), (Some("build"), "a:$V"));
    assert_eq!(first.platform.as_deref(), Some("$BUILDPLATFORM"));
    assert_eq!(first.instructions[0].span, Span { first: 6, last: 9 });
    assert_eq!(first.instructions[0].text, "RUN x   y");
    // After the first line that is no directive there are none.
    assert_eq!(ok("# note\n# escape=`\nFROM x\n").directives.escape, '\\');
    assert_eq!(ok("\u{feff}from x\r\nrun a \\\r\n b\r\n").stages[0].instructions[0].text, "run a  b");
}

#[test]
fn commands_have_two_forms() {
    let run = |line: &str| match op(line) {
        Op::Run(run) => run.command.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(run(r#"RUN ["a", "b c"]"#), Command::Exec(strings(&["a", "b c"])));
    assert_eq!(run(r#"RUN ["a", b]"#), Command::Shell(r#"["a", b]"#.into()));
    assert_eq!(run("RUN echo 'a'   b"), Command::Shell("echo 'a'   b".into()));
    assert_eq!(op("CMD []"), Op::Cmd(Command::Exec(Vec::new())));
    assert_eq!(op("ENTRYPOINT a b"), Op::Entrypoint(Command::Shell("a b".into())));
    assert_eq!(op(r#"SHELL ["/bin/bash", "-c"]"#), Op::Shell(strings(&["/bin/bash", "-c"])));
    assert_eq!(op(r#"VOLUME ["/a", "/b"]"#), Op::Volume(strings(&["/a", "/b"])));
    assert_eq!(op("VOLUME /a /b"), Op::Volume(strings(&["/a", "/b"])));
}

#[test]
fn names_and_values_have_two_forms() {
    let pairs = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(op("ENV a b  c"), Op::Env(pairs(&[("a", "b  c")])));
    assert_eq!(op(r#"ENV a=b c="d e" f=g\ h"#), Op::Env(pairs(&[("a", "b"), ("c", "\"d e\""), ("f", r"g\ h")])));
    assert_eq!(op("LABEL a.b=c"), Op::Label(pairs(&[("a.b", "c")])));
    assert_eq!(op("ARG a b=c"), Op::Arg(vec![("a".into(), None), ("b".into(), Some("c".into()))]));
    assert_eq!(op("EXPOSE 80 81/udp"), Op::Expose(strings(&["80", "81/udp"])));
}

#[test]
fn heredocs_belong_to_their_instruction() {
    let text = "RUN <<EOF\n# not a comment\necho $a \\\n  EOF\nEOF\nCOPY <<-\"one.txt\" <<two /x/\n\t\tfirst\n\tone.txt\n\
                second\ntwo\nRUN cat <<A > /b && cat <<'B'\n1\nA\n2\nB\nUSER u\n";
    let all = ops(text);
    let Op::Run(run) = &all[0] else { panic!("{all:?}") };
    assert_eq!(run.heredocs[0].content, "# not a comment\necho $a \\\n  EOF\n");
    let Op::Copy(copy) = &all[1] else { panic!("{all:?}") };
    assert_eq!(copy.sources, ["<<0", "<<1"]);
    assert_eq!(copy.target, "/x/");
    let first = &copy.heredocs[0];
    assert_eq!((first.name.as_str(), first.expand, first.text().as_str()), ("one.txt", false, "first\n"));
    assert_eq!((copy.heredocs[1].expand, copy.heredocs[1].content.as_str()), (true, "second\n"));
    let Op::Run(run) = &all[2] else { panic!("{all:?}") };
    assert_eq!(run.command, Command::Shell("cat <<A > /b && cat <<'B'".into()));
    assert_eq!(run.heredocs.iter().map(|h| h.content.as_str()).collect::<Vec<_>>(), ["1\n", "2\n"]);
    assert_eq!(all[3], Op::User("u".into()));
    assert!(matches!(op(r#"RUN ["sh", "-c", "cat <<EOF"]"#), Op::Run(run) if run.heredocs.is_empty()));
}

#[test]
fn flags_are_those_of_the_reference() {
    let Op::Copy(copy) = op(
        "COPY --from=build --chown=a:b --chmod=u=rwX,go=rX --link --parents --exclude=*.md --exclude=x [\"a b\", \"/c\"]",
    ) else {
        panic!()
    };
    assert_eq!(copy.from.as_deref(), Some("build"));
    assert_eq!((copy.chown.as_deref(), copy.chmod.as_deref()), (Some("a:b"), Some("u=rwX,go=rX")));
    assert!(copy.link && copy.parents && !copy.add);
    assert_eq!(copy.exclude, ["*.md", "x"]);
    assert_eq!((copy.sources.as_slice(), copy.target.as_str()), (&strings(&["a b"])[..], "/c"));
    let Op::Copy(add) = op("ADD --checksum=sha256:ab --keep-git-dir=true --unpack=false http://x /y") else { panic!() };
    assert!(add.add && add.keep_git_dir);
    assert_eq!((add.checksum.as_deref(), add.unpack), (Some("sha256:ab"), Some(false)));
    let Op::Run(run) =
        op("RUN --mount=type=cache,target=/c --mount=type=secret,id=s --network=none --security=insecure x")
    else {
        panic!()
    };
    assert_eq!(run.mounts, ["type=cache,target=/c", "type=secret,id=s"]);
    assert_eq!((run.network, run.security), (Network::None, Security::Insecure));
    let Op::Healthcheck(Some(health)) = op("HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD a b") else {
        panic!()
    };
    assert_eq!((health.interval, health.timeout, health.retries), (90_000_000_000, 500_000_000, 3));
    assert_eq!(op("HEALTHCHECK NONE"), Op::Healthcheck(None));
    assert_eq!(op("ONBUILD RUN x"), Op::Onbuild("RUN x".into()));
}

#[test]
fn mounts_are_read() {
    let mount = |text: &str| parse_mount(text).unwrap();
    let cache = mount("type=cache,id=go,target=/c,sharing=locked,mode=0700,uid=5,gid=6,ro");
    let MountKind::Cache { id, sharing, mode, uid, gid, read_only, .. } = cache.kind else { panic!() };
    assert_eq!(
        (id.as_deref(), sharing, mode, uid, gid, read_only),
        (Some("go"), CacheSharing::Locked, 0o700, 5, 6, true)
    );
    let bind = mount("target=/x,from=build,source=/y,rw");
    assert_eq!(bind.kind, MountKind::Bind { from: Some("build".into()), source: "/y".into(), writable: true });
    let secret = mount("type=secret,target=/etc/token,required");
    assert!(matches!(&secret.kind, MountKind::Secret { id, required: true, mode: 0o400, .. } if id == "token"));
    assert_eq!(mount("type=tmpfs,target=/t,size=64m").kind, MountKind::Tmpfs { size: Some(64 << 20) });
    let ssh = MountKind::Ssh { id: "default".into(), required: false, mode: 0o600, uid: 0, gid: 0 };
    assert_eq!(mount("type=ssh").kind, ssh);
    for (text, say) in [
        ("type=nfs,target=/x", "unsupported mount type"),
        ("type=cache", "target is required"),
        ("type=bind,target=/x,size=3", "unexpected key 'size'"),
        ("type=cache,target=/x,sharing=some", "unsupported sharing"),
        ("type=secret", "must be set"),
        ("type=cache,target=/x,mode=9", "invalid value"),
        ("target", "key=value"),
    ] {
        let error = parse_mount(text).unwrap_err();
        assert!(error.contains(say), "{text}: {error}");
    }
}

#[test]
fn errors_are_in_dockers_words_with_the_line() {
    for (text, say) in [
        ("FROM x\n\nFOO bar\n", "dockerfile parse error on line 3: unknown instruction: FOO"),
        ("", "file with no instructions"),
        ("# only\n", "file with no instructions"),
        ("RUN x\n", "no build stage in current context"),
        ("ARG a\n", "no build stage in current context"),
        ("FROM\n", "FROM requires either one or three arguments"),
        ("FROM a b\n", "FROM requires either one or three arguments"),
        ("FROM a AS 1x\n", "invalid name for build stage"),
        ("FROM a\nCOPY x\n", "line 2: COPY requires at least two arguments, but only one was provided"),
        ("FROM a\nCOPY --frm=b x y\n", "unknown flag: --frm"),
        ("FROM a\nENV\n", "ENV requires at least one argument"),
        ("FROM a\nENV a\n", "ENV must have two arguments"),
        ("FROM a\nENV a=b c\n", "can't find = in \"c\""),
        ("FROM a\nENV =b\n", "names can not be blank"),
        ("FROM a\nRUN <<EOF\nx\n", "line 2: unterminated heredoc"),
        ("FROM a\nCMD [1]\n", "only string type is allowed"),
        ("FROM a\nSHELL x\n", "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nHEALTHCHECK x\n", "Unknown type \"X\" in HEALTHCHECK"),
        ("FROM a\nHEALTHCHECK --interval=x CMD y\n", "invalid duration"),
        ("FROM a\nHEALTHCHECK --interval=1us CMD y\n", "cannot be less than 1ms"),
        ("FROM a\nONBUILD ONBUILD RUN x\n", "Chaining ONBUILD"),
        ("FROM a\nONBUILD FROM x\n", "FROM isn't allowed"),
        ("FROM a\nRUN --network=x y\n", "network \"x\""),
        ("FROM a\nWORKDIR\n", "WORKDIR requires exactly one argument"),
        ("FROM a\nRUN\n", "RUN requires at least one argument"),
        ("FROM a\nCOPY --from=b --from=c x y\n", "duplicate flag"),
        ("# escape=x\nFROM a\n", "invalid escape token 'x'"),
        ("# escape=`\n# escape=`\nFROM a\n", "only one escape parser directive"),
    ] {
        let error = error(text);
        assert!(error.starts_with("dockerfile parse error on line ") && error.contains(say), "{text:?}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "(FROM|RUN|COPY|ENV|ARG|HEALTHCHECK|ONBUILD|#|escape|[ \\\\\n\"'$<>=\\[\\]{}`a-z:-]){0,40}") {
        let _ = parse(&text);
    }

    #[test]
    fn spans_are_in_order_and_in_the_file(lines in proptest::collection::vec("(RUN a \\\\|  b|USER c|# d|)", 0..20)) {
        let text = format!("FROM x\n{}\n", lines.join("\n"));
        if let Ok(file) = parse(&text) {
            let mut last = 1;
            for instruction in &file.stages[0].instructions {
                assert!(instruction.span.first > last && instruction.span.last >= instruction.span.first);
                last = instruction.span.last;
            }
            assert!(last <= text.lines().count());
        }
    }
}
