//! Brokers over TLS.

use super::*;

pub(super) fn certificates(dir: &Path, name: &str) -> crate::config::node::RpcTlsFiles {
    let make = |arguments: &str| {
        let done = std::process::Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(dir)
            .output()
            .expect("openssl is installed");
        assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    make(&format!("req -x509 {key} -subj /CN={name}-ca -keyout {name}-ca.key -out {name}-ca.pem"));
    make(&format!(
        "req -x509 {key} -subj /CN={name} -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE \
         -CA {name}-ca.pem -CAkey {name}-ca.key -keyout {name}.key -out {name}.pem"
    ));
    let path = |file: String| dir.join(file);
    crate::config::node::RpcTlsFiles {
        cert: path(format!("{name}.pem")),
        key: path(format!("{name}.key")),
        ca: path(format!("{name}-ca.pem")),
    }
}

pub(super) fn with_tls(node: i32, files: Option<crate::config::node::RpcTlsFiles>) -> RpcOptions {
    let config = crate::config::node::NodeConfig {
        rpc_tls: files,
        ..crate::config::node::RawConfig::default().resolve().expect("holds")
    };
    RpcOptions::load(&config, birth(node)).expect("loads")
}

#[test]
fn with_tls_both_sides_show_a_certificate_of_the_same_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, foreign) = (certificates(dir.path(), "ours"), certificates(dir.path(), "foreign"));
    let with = |node, files| of_cluster(with_tls(node, Some(files)), 1, node);
    let serving = Serving::start(with(1, ours.clone()), "127.0.0.1:0", echoes);
    with_peers(with(2, ours.clone()), vec![peer(1, serving.at)], |rpc| async move {
        assert_eq!(echo(&rpc, 1, "in").await, Ok(Bytes::from_static(b"in")));
        let large = Bytes::from(vec![3; 5 << 20]);
        let answer = rpc.call(NodeId(1), Service::Status, large.clone(), PATIENCE).await.expect("answered");
        assert_eq!(answer, large);
        let appends = (0..20).map(|n| to_lane(&rpc, n, 1, 2, append(2, vec![entry(1 << 20)])));
        assert!(join_all(appends).await.into_iter().all(|reply| reply.is_ok()));
    });
    let plain = refused(broker(2), &serving, 1);
    assert!(plain.contains("this broker speaks TLS (--rpc-tls-cert)"), "{plain}");
    let other = refused(with(2, foreign), &serving, 1);
    assert!(other.contains("--rpc-tls-ca"), "{other}");
    let open = Serving::start(broker(1), "127.0.0.1:0", echoes);
    let why = refused(with(2, ours), &open, 1);
    assert!(why.contains("does not speak TLS") && why.contains("give every broker --rpc-tls-cert"), "{why}");
}
