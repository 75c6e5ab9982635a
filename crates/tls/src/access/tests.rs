use std::collections::BTreeSet;
use std::time::Duration;

use prost_reflect::DescriptorPool;

use super::*;

fn by_certificate(role: Role) -> Caller {
    let means = Means::Certificate;
    Caller { role, means }
}

fn by_token(purpose: Purpose, role: Role) -> Caller {
    let token = Token {
        purpose,
        role,
        expiry: 1,
        nonce: String::new(),
    };
    let means = Means::Token(token);
    Caller { role, means }
}

#[test]
fn every_method_of_every_service_is_in_the_table_once() {
    let pool = DescriptorPool::decode(retort_proto::DESCRIPTORS).unwrap();
    let methods: BTreeSet<String> = pool
        .services()
        .flat_map(|service| {
            let methods: Vec<_> = service.methods().collect();
            methods
        })
        .map(|m| format!("/{}/{}", m.parent_service().full_name(), m.name()))
        .collect();
    assert!(methods.len() > 20, "{methods:?}");
    let listed: Vec<String> = TABLE.iter().map(|(method, _)| (*method).to_owned()).collect();
    let distinct: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), distinct.len(), "a method is listed twice");
    assert_eq!(methods, distinct);
}

/// Said a second time, by role: whoever opens a method to somebody must mean it.
#[test]
fn a_certificate_allows_no_more_than_this() {
    let may = |role: Role| {
        let allowed = TABLE
            .iter()
            .filter(|(method, who)| judge(method, *who, vec![by_certificate(role)]).is_ok());
        let mut methods: Vec<&str> = allowed
            .map(|(method, _)| &method["/retort.v1.".len()..])
            .collect();
        methods.sort_unstable();
        methods.join(" ")
    };
    assert_eq!(may(Role::Coordinator), "Join/Renew");
    assert_eq!(
        may(Teacher),
        "Fleet/Control Fleet/Leave Fleet/NextRun Fleet/Register Join/Renew Versions/Fetch"
    );
    assert_eq!(
        may(Student),
        "Fleet/Control Fleet/Fail Fleet/Lease Fleet/Leave Fleet/NextRun Fleet/Register Fleet/Reject Fleet/Release \
         Join/Renew Reduce/Contribute Status/GetRun Teacher/Describe Teacher/Distill Versions/Fetch Versions/Publish"
    );
    assert_eq!(
        may(Operator),
        "Join/Renew Runs/Drain Runs/KeepReport Runs/Pause Runs/Resume Runs/Retune Runs/Stop Runs/Submit Status/GetRun \
         Status/ListRuns Status/ListStudents Status/ListTeachers Status/WatchRun Teacher/Describe Versions/Fetch \
         Versions/List Versions/Publish"
    );
    assert_eq!(
        may(Observer),
        "Join/Renew Status/GetRun Status/ListRuns Status/ListStudents Status/ListTeachers Status/WatchRun \
         Teacher/Describe"
    );
}

#[test]
fn what_is_not_listed_nobody_may_call() {
    for path in [
        "/retort.v1.Runs/Delete",
        "/retort.v1.Runs",
        "",
        "/grpc.health.v1.Healthy/Check",
    ] {
        assert_eq!(who(path), None, "{path}");
    }
    assert_eq!(who("/grpc.health.v1.Health/Check"), Some(Who::Anyone));
}

#[test]
fn each_role_may_do_what_the_table_says_and_nothing_else() {
    for (method, who) in TABLE {
        for role in Role::ALL {
            let certificate = judge(method, *who, vec![by_certificate(role)]);
            let access = judge(method, *who, vec![by_token(Purpose::Access, role)]);
            let join = judge(method, *who, vec![by_token(Purpose::Join, role)]);
            let listed = matches!(who, Who::Roles(roles) if roles.contains(&role));
            let expected = [
                (certificate, listed || *who == Who::Certificate),
                (access, listed),
                (join, *who == Who::Joining),
            ];
            for (judged, allowed) in expected {
                assert_eq!(judged.is_ok(), allowed, "{method} by {role}");
                if let Err(status) = judged {
                    assert_eq!(status.code(), Code::PermissionDenied);
                    assert!(status.message().contains(named(method)), "{status}");
                    assert!(status.message().contains(role.name()), "{status}");
                }
            }
        }
        let nobody = judge(method, *who, Vec::new()).unwrap_err();
        assert_eq!(nobody.code(), Code::Unauthenticated);
    }
}

#[test]
fn a_token_is_taken_where_there_is_a_key_and_stands_beside_a_certificate() {
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3_600));
    let key = token::Key::random().unwrap();
    let text = key.issue(Purpose::Join, Student, (now, hour)).unwrap();
    let request = |token: &str, role: Option<Role>| {
        let mut request = Request::new(());
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        request.extensions_mut().insert(Peer { address: None, role });
        request
    };
    let both = callers(&request(&text, Some(Teacher)), Some(&key), now).unwrap();
    assert_eq!(both.len(), 2);
    let joins = judge("/retort.v1.Join/Join", Who::Joining, both).unwrap();
    assert_eq!(joins.role, Student);
    for (token, key, part) in [
        (text.as_str(), None, "takes no tokens"),
        ("nonsense", Some(&key), "no token"),
        (&text.replace("student", "operator"), Some(&key), "not made with"),
    ] {
        let refused = callers(&request(token, None), key, now).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains(part), "{refused}");
    }
    let late = callers(&request(&text, None), Some(&key), now + hour).unwrap_err();
    assert!(late.message().contains("expired"), "{late}");
}
