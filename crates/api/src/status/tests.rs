use super::*;

#[test]
fn errors_read_as_in_kubernetes() {
    for (error, code, reason, message) in [
        (ApiError::not_found("pods", "", "x"), 404, "NotFound", r#"pods "x" not found"#),
        (
            ApiError::already_exists("deployments", "apps", "x"),
            409,
            "AlreadyExists",
            r#"deployments.apps "x" already exists"#,
        ),
        (
            ApiError::conflict_modified("deployments", "apps", "x"),
            409,
            "Conflict",
            r#"Operation cannot be fulfilled on deployments.apps "x": the object has been modified; please apply your changes to the latest version and try again"#,
        ),
        (
            ApiError::invalid("Pod", "", "x", vec![FieldError::required("spec.containers[0].image", "")]),
            422,
            "Invalid",
            r#"Pod "x" is invalid: spec.containers[0].image: Required value"#,
        ),
        (
            ApiError::invalid(
                "Deployment",
                "apps",
                "x",
                vec![
                    FieldError::required("a", "why"),
                    FieldError::not_supported("b", "z", &["X", "Y"]),
                    FieldError::duplicate("c", "d"),
                ],
            ),
            422,
            "Invalid",
            r#"Deployment.apps "x" is invalid: [a: Required value: why, b: Unsupported value: "z": supported values: "X", "Y", c: Duplicate value: "d"]"#,
        ),
        (ApiError::forbidden("pods", "", "x", "no"), 403, "Forbidden", r#"pods "x" is forbidden: no"#),
        (ApiError::unauthorized(), 401, "Unauthorized", "Unauthorized"),
        (ApiError::too_old_resource_version(3, 9), 410, "Expired", "too old resource version: 3 (9)"),
        (ApiError::bad_request("x"), 400, "BadRequest", "x"),
        (ApiError::internal("x"), 500, "InternalError", "Internal error occurred: x"),
    ] {
        assert_eq!((error.code, error.reason, error.message.as_str()), (code, reason, message));
    }
}

#[test]
fn a_status_carries_details_and_causes() {
    let error = ApiError::invalid("Pod", "", "x", vec![FieldError::invalid("spec.a", 5, "too big")]).with_uid("u");
    assert_eq!(
        error.to_status(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 422, "reason": "Invalid",
            "message": "Pod \"x\" is invalid: spec.a: Invalid value: 5: too big",
            "details": {"name": "x", "kind": "Pod", "uid": "u",
                "causes": [{"reason": "FieldValueInvalid", "message": "Invalid value: 5: too big", "field": "spec.a"}]},
        })
    );
    assert_eq!(ApiError::timeout("x", 3).retry_after(), Some(3));
}
