//! What clients of Docker's API send.

use serde_json::json;

use super::{Target, lines};

/// Paths, queries, filters, credentials.
pub const REQUEST: Target = Target {
    name: "docker-request",
    about: "paths, queries and filters of Docker's API, with credentials in a header",
    json: false,
    seeds: || {
        let mut seeds = lines(
            "/v1.47/containers/json?all=1&filters=%7B%22status%22%3A%5B%22running%22%5D%7D\n\
             /containers/a%2Fb/logs?since=1.5&until=2024-01-01T00:00:00Z&tail=all\n\
             /v1.41/build?t=a:1&buildargs=%7B%22A%22%3A%22b%22%7D&labels=%7B%7D&extrahosts=a:1.2.3.4&memory=1&ulimits=%5B%5D\n\
             /images/json?filters=%7B%22label%21%22%3A%7B%22a%3D1%22%3Atrue%7D%7D&platform=linux%2Famd64\n",
        );
        // Of {"username":"u","password":"p"} and of {"r":{"auth":"dTpw"}}.
        seeds.push(b"/v1.50/images/create?fromImage=a\neyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InAifQ==".to_vec());
        seeds.push(b"/v1.50/build?\neyJyIjp7ImF1dGgiOiJkVHB3In19".to_vec());
        seeds
    },
    run: |input| dockerapi::fuzz::request(&String::from_utf8_lossy(input)),
};

/// Bodies of `containers/create`.
pub const CONTAINER: Target = Target {
    name: "docker-container",
    about: "containers to create, as Docker's clients write them",
    json: true,
    seeds: || {
        let whole = json!({
            "Image": "a", "Cmd": ["x"], "Entrypoint": "y", "Env": ["A=b", "C"], "Labels": {"a": "b"}, "Tty": true, "User": "1:1",
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "StopSignal": "SIGTERM", "StopTimeout": 1, "Hostname": "h",
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1_000_000_000, "Retries": 3},
            "HostConfig": {
                "Binds": ["/a:/b:ro,z", "v:/c"], "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080-8090"}]},
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "NetworkMode": "bridge", "Memory": 67_108_864,
                "NanoCpus": 500_000_000, "PidsLimit": 10, "ShmSize": 1_048_576, "Tmpfs": {"/t": "size=1m,mode=1777"},
                "CapAdd": ["NET_ADMIN"], "SecurityOpt": ["no-new-privileges"], "ExtraHosts": ["h:host-gateway"], "Dns": ["1.1.1.1"],
                "Mounts": [{"Type": "volume", "Source": "v", "Target": "/m", "VolumeOptions": {"NoCopy": true}}],
                "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "Sysctls": {"net.ipv4.ip_forward": "1"},
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}}, "Devices": [{"PathOnHost": "/dev/null"}],
            },
            "NetworkingConfig": {"EndpointsConfig": {"n": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}}}},
        });
        vec![json!({"Image": "a"}).to_string().into_bytes(), whole.to_string().into_bytes()]
    },
    run: dockerapi::fuzz::container,
};

/// Attached streams.
pub const STREAM: Target = Target {
    name: "docker-stream",
    about: "an attached client's input and the frames of output",
    json: false,
    seeds: || {
        let seeds: [&[u8]; 4] =
            [b"\n\x02ab\x03\x10x\x10\x11z", b"a,b\n\x01aab", b"ctrl-@,ctrl-[,q\n\0\0\x1bq", b"a,a,b\naaab"];
        seeds.map(<[u8]>::to_vec).to_vec()
    },
    run: dockerapi::fuzz::stream,
};
