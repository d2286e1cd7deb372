//! What expressions ask about rights, answered by the server's authorizers.

use std::sync::Arc;

use api::cel::{Answer, Authorize, Authorizer, Question};
use api::selectors::FieldSelector;

use super::Admission;
use crate::authn::UserInfo;
use crate::authz::{self, Attributes, Chain};
use crate::cache::Caches;

/// The sender of a request and those who decide.
struct Rights {
    user: UserInfo,
    chain: Arc<Chain>,
    caches: Arc<Caches>,
}

/// The variables `authorizer` and `authorizer.requestResource` of a request's expressions.
pub(super) fn of(admission: &Admission<'_>) -> Authorizer {
    let rights = Rights {
        user: admission.user.clone(),
        chain: admission.server.authorizers.clone(),
        caches: admission.server.caches.clone(),
    };
    let resource = Question {
        group: admission.kind.group.to_owned(),
        resource: admission.kind.plural.to_owned(),
        subresource: admission.subresource.to_owned(),
        namespace: admission.asked_namespace().to_owned(),
        name: admission.name.to_owned(),
        ..Question::default()
    };
    Authorizer::new(Arc::new(rights), resource)
}

impl Authorize for Rights {
    fn decide(&self, question: &Question) -> Answer {
        let account = question.account.as_ref().map(|(namespace, name)| UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
            ..UserInfo::default()
        });
        // A selector that cannot be read is as none.
        let fields = FieldSelector::parse(&question.field_selector).ok();
        let asked = Attributes {
            verb: &question.verb,
            group: &question.group,
            resource: &question.resource,
            subresource: &question.subresource,
            namespace: &question.namespace,
            name: &question.name,
            node: fields.as_ref().and_then(|f| f.exact("spec.nodeName")).unwrap_or(""),
            path: &question.path,
            ..Attributes::blank(account.as_ref().unwrap_or(&self.user))
        };
        Answer {
            allowed: authz::allowed(&self.chain, &asked, &self.caches),
            reason: self.chain.reason(&asked, &self.caches),
        }
    }
}
