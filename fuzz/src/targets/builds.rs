//! What builds of images read.

use build::dockerfile::{Op, parse, parse_mount};
use build::{expand, pattern};

use super::{Target, lines, outcome};

/// Dockerfiles.
pub const DOCKERFILE: Target = Target {
    name: "dockerfile",
    about: "Dockerfiles, with the mounts of their commands",
    json: false,
    seeds: || {
        [
            "# syntax=docker/dockerfile:1\n# escape=`\nARG V=1\nFROM --platform=$P a:$V AS b\nRUN x `\n # c\n y\n",
            "FROM a\nRUN <<EOF\necho $a\nEOF\nCOPY <<-\"one\" <<two /x/\n\tfirst\n\tone\nsecond\ntwo\n",
            "FROM a\nENV a=b c=\"d e\"\nLABEL x y\nARG q r=s\nCMD [\"a\", \"b\"]\nENTRYPOINT c d\nSHELL [\"/bin/sh\"]\n",
            "FROM a\nRUN --mount=type=cache,target=/c,id=x,sharing=locked,mode=0700 --network=none x\n",
            "FROM a\nCOPY --from=b --chown=a:b --chmod=u+x --link --parents --exclude=*.md [\"a b\", \"/c\"]\n",
            "FROM a\nADD --checksum=sha256:ab --keep-git-dir=true https://x/y.git#z:w /y\nVOLUME /a /b\nEXPOSE 80/udp\n",
            "FROM a\nHEALTHCHECK --interval=1m30s --timeout=5ms --retries=3 CMD x\nONBUILD RUN y\nSTOPSIGNAL 9\nUSER u\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    run: |input| {
        let file = match parse(&String::from_utf8_lossy(input)) {
            Ok(file) => file,
            Err(error) => {
                assert!(error.span.first >= 1 && error.span.first <= error.span.last, "{error:?}");
                return error.message;
            }
        };
        for instruction in file.stages.iter().flat_map(|s| &s.instructions) {
            if let Op::Run(run) = &instruction.op {
                for mount in &run.mounts {
                    let _ = parse_mount(mount);
                }
            }
        }
        "ok".to_owned()
    },
};

/// `.dockerignore`.
pub const IGNORE: Target = Target {
    name: "dockerignore",
    about: ".dockerignore files, read and applied to paths",
    json: false,
    seeds: || vec![b"# c\n*.md\n!README.md\n**/node_modules\n/build/\n[a-z]?x\n\\*\nd/**/e\n".to_vec()],
    run: |input| {
        outcome(pattern::Ignore::read(&String::from_utf8_lossy(input)).map(|ignore| {
            ["a.md", "README.md", "d/node_modules/x", "build", "d/a/b/e"].map(|path| ignore.leaves_out(path))
        }))
    },
};

/// Variables and quotes.
pub const WORDS: Target = Target {
    name: "dockerfile-words",
    about: "substitutions and quotes of Dockerfiles",
    json: false,
    seeds: || {
        lines(
            "$a-${a}\n${none:-w}${empty:+x}\n${path##*/}|${path%.*}|${path//l/L}\n\\$a '$a' \"$a \\\"q\\\"\"\n${none:?must}\n${a:-${b:-${c}}}\n",
        )
    },
    run: |input| {
        let lookup = |name: &str| match name {
            "a" => Some("one two".to_owned()),
            "path" => Some("/usr/local/lib/x.tar.gz".to_owned()),
            _ => None,
        };
        let text = String::from_utf8_lossy(input);
        let _ = expand::words(&text, '`', &lookup);
        outcome(expand::word(&text, '\\', &lookup))
    },
};
