//! The `authorizer` of admission expressions: what the sender of a request, or a service account, may do.
//!
//! Its functions are those of Kubernetes' library `authz`: `authorizer.group('').resource('pods').check('get').allowed()`.

use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Opaque;
use cel::{Context, DeclarationError, ExecutionError, Value};

use crate::names;

type Text = Arc<String>;
type Object = Arc<dyn Opaque>;

/// The name of the variable that asks about the sender of a request.
pub const AUTHORIZER: &str = "authorizer";
/// The name of the variable that asks about the resource of the request.
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";

/// What an expression asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Namespace and name of the service account that it is about; `None`: about the sender of the request.
    pub account: Option<(String, String)>,
    /// `get`, `list`, `create`, ...
    pub verb: String,
    /// A path that is not of a resource; empty when it is about a resource.
    pub path: String,
    /// API group.
    pub group: String,
    /// Plural of the resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace; empty for the cluster.
    pub namespace: String,
    /// Name of the object; empty for all.
    pub name: String,
    /// Field selector of a list, as written.
    pub field_selector: String,
    /// Label selector of a list, as written.
    pub label_selector: String,
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why; may be empty.
    pub reason: String,
}

/// Who knows what is allowed.
pub trait Authorize: Send + Sync {
    /// Whether it is allowed.
    fn decide(&self, question: &Question) -> Answer;
}

/// The variables [`AUTHORIZER`] and [`REQUEST_RESOURCE`] of one evaluation.
#[derive(Clone)]
pub struct Authorizer {
    by: Arc<dyn Authorize>,
    resource: Question,
}

impl Authorizer {
    /// One that asks `by`, for a request whose resource is as in `resource` (of which the verb means nothing).
    pub fn new(by: Arc<dyn Authorize>, resource: Question) -> Self {
        Authorizer { by, resource }
    }

    /// Puts variables and functions into a context.
    pub(super) fn add_to(&self, context: &mut Context<'_, '_>) -> Result<(), DeclarationError> {
        let check = |stage, question| Value::Opaque(Arc::new(Check { by: self.by.clone(), stage, question }));
        context.add_variable_from_value(AUTHORIZER, check(Stage::Authorizer, Question::default()));
        context.add_variable_from_value(REQUEST_RESOURCE, check(Stage::Resource, self.resource.clone()));
        functions(context)
    }
}

/// How much of a question is there, which decides what can be said next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
}

/// A question on its way.
#[derive(Clone)]
struct Check {
    by: Arc<dyn Authorize>,
    stage: Stage,
    question: Question,
}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.by, &other.by) && self.stage == other.stage && self.question == other.question
    }
}

impl Eq for Check {}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({:?})", self.stage, self.question)
    }
}

impl Opaque for Check {
    fn runtime_type_name(&self) -> &str {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}

/// An answer as a value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decision(Answer);

impl Opaque for Decision {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }
}

fn failed(function: &str, why: &str) -> ExecutionError {
    ExecutionError::function_error(function, why)
}

/// The question so far, if it is at `stage`.
fn at<'o>(function: &str, this: &'o Object, stage: Stage) -> Result<&'o Check, ExecutionError> {
    let check = (**this).downcast_ref::<Check>().filter(|check| check.stage == stage);
    check.ok_or_else(|| failed(function, "no such overload"))
}

fn decision<'o>(function: &str, this: &'o Object) -> Result<&'o Answer, ExecutionError> {
    (**this).downcast_ref::<Decision>().map(|d| &d.0).ok_or_else(|| failed(function, "no such overload"))
}

/// Adds a function that leads from one stage to the next.
fn step(
    context: &mut Context<'_, '_>,
    name: &'static str,
    from: Stage,
    to: Stage,
    set: fn(&mut Question, &str) -> Result<(), &'static str>,
) -> Result<(), DeclarationError> {
    context.add_function(name, move |This(this): This<Object>, text: Text| -> Result<Object, ExecutionError> {
        let mut next = at(name, &this, from)?.clone();
        next.stage = to;
        set(&mut next.question, &text).map_err(|why| failed(name, why))?;
        Ok(Arc::new(next))
    })
}

fn functions(context: &mut Context<'_, '_>) -> Result<(), DeclarationError> {
    let in_order = [
        ("group", Stage::Authorizer, Stage::Group, set_group as fn(&mut Question, &str) -> Result<(), &'static str>),
        ("path", Stage::Authorizer, Stage::Path, set_path),
        ("resource", Stage::Group, Stage::Resource, set_resource),
        ("subresource", Stage::Resource, Stage::Resource, |q, text| keep(&mut q.subresource, text)),
        ("namespace", Stage::Resource, Stage::Resource, |q, text| keep(&mut q.namespace, text)),
        ("name", Stage::Resource, Stage::Resource, |q, text| keep(&mut q.name, text)),
        ("fieldSelector", Stage::Resource, Stage::Resource, |q, text| keep(&mut q.field_selector, text)),
        ("labelSelector", Stage::Resource, Stage::Resource, |q, text| keep(&mut q.label_selector, text)),
    ];
    for (name, from, to, set) in in_order {
        step(context, name, from, to, set)?;
    }
    context.add_function("serviceAccount", service_account)?;
    context.add_function("check", |This(this): This<Object>, verb: Text| -> Result<Object, ExecutionError> {
        let check = at("check", &this, Stage::Resource).or_else(|_| at("check", &this, Stage::Path))?;
        let question = Question { verb: verb.to_string(), ..check.question.clone() };
        Ok(Arc::new(Decision(check.by.decide(&question))))
    })?;
    context.add_function("allowed", |This(this): This<Object>| -> Result<Value, ExecutionError> {
        Ok(decision("allowed", &this)?.allowed.into())
    })?;
    context.add_function("reason", |This(this): This<Object>| -> Result<Value, ExecutionError> {
        Ok(decision("reason", &this)?.reason.as_str().into())
    })?;
    // The authorizers of this server look into caches: there is nothing in it that fails.
    context.add_function("errored", |This(this): This<Object>| -> Result<Value, ExecutionError> {
        decision("errored", &this).map(|_| false.into())
    })?;
    context.add_function("error", |This(this): This<Object>| -> Result<Value, ExecutionError> {
        decision("error", &this).map(|_| "".into())
    })
}

fn keep(field: &mut String, text: &str) -> Result<(), &'static str> {
    text.clone_into(field);
    Ok(())
}

fn set_group(question: &mut Question, text: &str) -> Result<(), &'static str> {
    keep(&mut question.group, text)
}

fn set_path(question: &mut Question, text: &str) -> Result<(), &'static str> {
    if text.trim().is_empty() {
        return Err("path must not be empty");
    }
    keep(&mut question.path, text)
}

fn set_resource(question: &mut Question, text: &str) -> Result<(), &'static str> {
    if text.trim().is_empty() {
        return Err("resource must not be empty");
    }
    keep(&mut question.resource, text)
}

fn service_account(This(this): This<Object>, namespace: Text, name: Text) -> Result<Object, ExecutionError> {
    let mut next = at("serviceAccount", &this, Stage::Authorizer)?.clone();
    if !names::dns1123_subdomain(&name).is_empty() {
        return Err(failed("serviceAccount", "Invalid service account name"));
    }
    if !names::dns1123_label(&namespace).is_empty() {
        return Err(failed("serviceAccount", "Invalid service account namespace"));
    }
    next.question.account = Some((namespace.to_string(), name.to_string()));
    Ok(Arc::new(next))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cel::{Error, Scope, compile};

    /// Allows what is asked about pods in `a`, and the path `/ok`.
    struct Pods;

    impl Authorize for Pods {
        fn decide(&self, question: &Question) -> Answer {
            let allowed = question.resource == "pods" && question.namespace == "a" || question.path == "/ok";
            Answer { allowed, reason: format!("{:?} {}", question.account, question.verb) }
        }
    }

    fn eval(expression: &str) -> Result<Value, Error> {
        let resource = Question { resource: "pods".into(), namespace: "a".into(), ..Question::default() };
        let authorizer = Authorizer::new(Arc::new(Pods), resource);
        let scope = Scope { authorizer: Some(&authorizer), made: None };
        compile(expression, &["object", AUTHORIZER])?.eval_in(&[("object", &json!({}))], &scope)
    }

    #[test]
    fn rights_can_be_asked_for() {
        for expression in [
            "authorizer.group('').resource('pods').namespace('a').check('get').allowed()",
            "!authorizer.group('').resource('pods').namespace('b').name('x').subresource('log').check('get').allowed()",
            "authorizer.requestResource.check('custom').allowed()",
            "!authorizer.requestResource.namespace('b').check('custom').allowed()",
            "authorizer.path('/ok').check('get').allowed()",
            "authorizer.serviceAccount('n', 's').path('/no').check('get').reason() == 'Some((\"n\", \"s\")) get'",
            "!authorizer.path('/no').check('get').errored() && authorizer.path('/no').check('get').error() == ''",
            "authorizer.group('').resource('pods').namespace('a').fieldSelector('x=y').labelSelector('l').check('list').allowed()",
        ] {
            assert_eq!(eval(expression), Ok(true.into()), "{expression}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for (expression, why) in [
            ("authorizer.path(' ').check('get').allowed()", "path must not be empty"),
            ("authorizer.group('').resource('').check('get').allowed()", "resource must not be empty"),
            ("authorizer.serviceAccount('n', 'N!').path('/x').check('get').allowed()", "Invalid service account name"),
            (
                "authorizer.serviceAccount('n.x', 'n').path('/x').check('get').allowed()",
                "Invalid service account namespace",
            ),
            ("authorizer.check('get').allowed()", "no such overload"),
            ("authorizer.group('').check('get').allowed()", "no such overload"),
        ] {
            let error = eval(expression).unwrap_err().to_string();
            assert!(error.contains(why), "{expression}: {error}");
        }
    }
}
