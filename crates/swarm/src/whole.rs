//! The swarm itself: it is there because the cluster is.

use dockerapi::swarm::{Asked, Fault, Result, Said};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{Swarm, cluster, ok};

/// What a swarm's settings are where nobody can change them.
fn settings() -> Value {
    json!({
        "Name": "default", "Labels": {}, "Orchestration": {"TaskHistoryRetentionLimit": 1}, "Raft": {}, "Dispatcher": {},
        "CAConfig": {}, "TaskDefaults": {}, "EncryptionConfig": {"AutoLockManagers": false},
    })
}

fn refused(why: &str) -> Fault {
    Fault::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

impl Swarm {
    async fn whole(&self) -> Result<Value> {
        let origin = self.cluster.origin().await?;
        let born = &origin["metadata"]["creationTimestamp"];
        Ok(json!({
            "ID": cluster::id(&origin), "Version": {"Index": 1}, "CreatedAt": born, "UpdatedAt": born, "Spec": settings(),
            "TLSInfo": {}, "RootRotationInProgress": false, "DefaultAddrPool": [], "SubnetSize": 0, "DataPathPort": 0,
        }))
    }

    /// What is asked of the swarm itself.
    pub(crate) async fn of_whole(&self, asked: &Asked, path: &[&str]) -> Result<Said> {
        match (asked.method.as_str(), path) {
            ("GET", []) => {
                let mut whole = self.whole().await?;
                let how = "none: a node joins with `windlass agent`";
                whole["JoinTokens"] = json!({"Worker": how, "Manager": how});
                ok(whole)
            }
            ("POST", ["init" | "join"]) => Err(refused(
                "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
            )),
            ("POST", ["leave"]) => Err(refused(
                "This node manages the swarm for as long as its server runs: it leaves with `windlass down`.",
            )),
            ("POST", ["update"]) => Err(Fault::unsupported("changing a swarm's settings")),
            ("GET", ["unlockkey"]) => ok(json!({"UnlockKey": ""})),
            ("POST", ["unlock"]) => Err(Fault::conflict("swarm is not locked")),
            _ => Err(Fault::missing("page not found")),
        }
    }

    /// What `docker info` says.
    pub(crate) async fn said_of_it(&self) -> Value {
        let found = async {
            let (nodes, whole) = futures::try_join!(self.nodes(), self.whole())?;
            Ok::<_, Fault>((self.counted(&nodes), whole))
        };
        match found.await {
            Ok(((nodes, managers, Some((id, address))), whole)) => json!({
                "NodeID": id, "NodeAddr": address, "LocalNodeState": "active", "ControlAvailable": true, "Error": "",
                "RemoteManagers": [{"NodeID": id, "Addr": format!("{address}:0")}], "Nodes": nodes, "Managers": managers,
                "Cluster": whole,
            }),
            Ok(_) => pending("this host's node is not in the cluster yet"),
            Err(error) => pending(&error.message),
        }
    }
}

fn pending(why: &str) -> Value {
    json!({
        "NodeID": "", "NodeAddr": "", "LocalNodeState": "pending", "ControlAvailable": false, "Error": why, "RemoteManagers": null,
    })
}
