//! Which path of a kubelet endpoint a subresource of a pod is.

use api::status::ApiError;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use crate::http::query::Query;

/// Parameters of logs that are passed on.
const LOG: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
/// Annotation that names the container commands mean when they name none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// `/containerLogs/NAMESPACE/POD/CONTAINER`.
pub(super) fn log(query: &Query, pod: &Value) -> Result<String, ApiError> {
    let container = container(query, pod, true)?;
    for key in ["sinceSeconds", "tailLines", "limitBytes"] {
        if let Some(value) = query.get(key)
            && value.parse::<i64>().is_err()
        {
            return Err(ApiError::bad_request(format!("invalid value {value:?} of parameter {key:?}: not a number")));
        }
    }
    let mut out = Serializer::new(String::new());
    for (key, value) in query.raw.iter().filter(|(key, _)| LOG.contains(&key.as_str())) {
        out.append_pair(key, value);
    }
    Ok(join("containerLogs", pod, Some(&container), &out.finish()))
}

/// `/exec/...`, `/attach/...` or `/portForward/...`.
pub(super) fn stream(sub: &str, query: &Query, pod: &Value) -> Result<String, ApiError> {
    if sub == "portforward" {
        let mut out = Serializer::new(String::new());
        for (_, value) in query.raw.iter().filter(|(key, _)| matches!(key.as_str(), "port" | "ports")) {
            out.append_pair("port", value);
        }
        return Ok(join("portForward", pod, None, &out.finish()));
    }
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    if matches!(phase, "Succeeded" | "Failed") {
        let what = if sub == "exec" { "exec into" } else { "attach to" };
        return Err(ApiError::bad_request(format!(
            "cannot {what} a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = container(query, pod, false)?;
    let mut out = Serializer::new(String::new());
    for (key, value) in &query.raw {
        // The kubelet's own names of the streams.
        let (name, flag) = match key.as_str() {
            "stdin" => ("input", true),
            "stdout" => ("output", true),
            "stderr" => ("error", true),
            "tty" => ("tty", true),
            "command" if sub == "exec" => ("command", false),
            _ => continue,
        };
        match (flag, matches!(value.as_str(), "1" | "true" | "True" | "TRUE" | "t" | "T")) {
            (false, _) => drop(out.append_pair(name, value)),
            (true, true) => drop(out.append_pair(name, "1")),
            (true, false) => {}
        }
    }
    if sub == "exec" && query.get("command").is_none() {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    Ok(join(sub, pod, Some(&container), &out.finish()))
}

fn join(what: &str, pod: &Value, container: Option<&str>, query: &str) -> String {
    let mut path = format!("/{what}/{}/{}", api::meta::namespace(pod), api::meta::name(pod));
    if let Some(container) = container {
        path.push('/');
        path.push_str(container);
    }
    if !query.is_empty() {
        path.push('?');
        path.push_str(query);
    }
    path
}

fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
}

/// The container that is meant.
fn container(query: &Query, pod: &Value, for_logs: bool) -> Result<String, ApiError> {
    let (containers, init) = (names(pod, "containers"), names(pod, "initContainers"));
    let name = api::meta::name(pod);
    if let Some(wanted) = query.get("container").filter(|c| !c.is_empty()) {
        let known = [&containers[..], &init, &names(pod, "ephemeralContainers")].concat();
        if known.contains(&wanted) {
            return Ok(wanted.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")));
    }
    let annotated = api::meta::annotations(pod).and_then(|a| a.get(DEFAULT_CONTAINER)).and_then(Value::as_str);
    match (containers.as_slice(), annotated) {
        ([only], _) => Ok((*only).to_owned()),
        (_, Some(annotated)) if for_logs && containers.contains(&annotated) => Ok(annotated.to_owned()),
        _ => {
            let mut why =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", containers.join(" "));
            if !init.is_empty() {
                why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: &[&str]) -> Value {
        let list: Vec<Value> = containers.iter().map(|n| json!({"name": n})).collect();
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": list}})
    }

    #[test]
    fn logs_pass_their_options_and_nothing_else() {
        let query = Query::parse("follow=true&tailLines=5&pretty=1&insecureSkipTLSVerifyBackend=true").unwrap();
        assert_eq!(log(&query, &pod(&["a"])).unwrap(), "/containerLogs/n/p/a?follow=true&tailLines=5");
        let error = log(&query, &pod(&["a", "b"])).unwrap_err();
        assert_eq!(error.message, "a container name must be specified for pod p, choose one of: [a b]");
        let query = Query::parse("container=z").unwrap();
        assert_eq!(log(&query, &pod(&["a"])).unwrap_err().message, "container z is not valid for pod p");
    }

    #[test]
    fn exec_speaks_the_kubelets_names() {
        let query =
            Query::parse("command=sh&command=-c&command=a%20b&stdin=true&stdout=true&stderr=false&tty=true").unwrap();
        let want = "/exec/n/p/a?command=sh&command=-c&command=a+b&input=1&output=1&tty=1";
        assert_eq!(stream("exec", &query, &pod(&["a"])).unwrap(), want);
        assert_eq!(
            stream("portforward", &Query::parse("ports=80").unwrap(), &pod(&["a"])).unwrap(),
            "/portForward/n/p?port=80"
        );
        let mut done = pod(&["a"]);
        done["status"] = json!({"phase": "Succeeded"});
        assert_eq!(stream("exec", &query, &done).unwrap_err().code, 400);
    }
}
