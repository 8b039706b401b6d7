//! A real Trino server with one REST catalog.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::cache::{peer, run};
use super::maven;

/// A running Trino. Dropping it stops it.
pub struct Trino {
    child: Child,
    pub port: u16,
}

const MAIN: &str =
    "public class Main { public static void main(String[] a) { new io.trino.server.Server().start(\"483\"); } }\n";

impl Trino {
    /// Starts Trino in `dir` with the catalog `lake` at `catalog` (`http://…`); `s3` is endpoint, key and secret.
    pub fn start(dir: &Path, catalog: &str, s3: Option<(&str, &str, &str)>) -> Self {
        let (main, plugin) = (maven::jars("trino-main"), maven::jars("trino-iceberg"));
        let java = maven::java25();
        let home = peer("trino-home", MAIN, |home| {
            std::fs::write(home.join("Main.java"), MAIN).expect("source");
            let mut javac = Command::new(java.join("bin/javac"));
            javac.arg("-cp").arg(format!("{}/*", main.display())).arg("-d").arg(home).arg(home.join("Main.java"));
            run(&mut javac, "a JDK 25 with javac");
            let services = home.join("plugin/iceberg/META-INF/services");
            std::fs::create_dir_all(&services).expect("services");
            std::fs::write(services.join("io.trino.spi.Plugin"), "io.trino.plugin.iceberg.IcebergPlugin\n")
                .expect("service");
            let mut jar = Command::new(java.join("bin/jar"));
            jar.args(["cf"]).arg(home.join("plugin/iceberg/service.jar"));
            jar.arg("-C").arg(home.join("plugin/iceberg")).arg("META-INF");
            run(&mut jar, "a JDK 25 with jar");
            std::fs::remove_dir_all(home.join("plugin/iceberg/META-INF")).expect("clean");
            for jar in std::fs::read_dir(&plugin).expect("plugin").flatten() {
                if jar.path().extension().is_some_and(|e| e == "jar") {
                    std::os::unix::fs::symlink(jar.path(), home.join("plugin/iceberg").join(jar.file_name()))
                        .expect("link");
                }
            }
        });
        let port = super::broker::free_ports()[0];
        let etc = dir.join("trino");
        std::fs::create_dir_all(etc.join("catalog")).expect("etc");
        std::fs::write(
            etc.join("config.properties"),
            format!(
                "coordinator=true\nnode-scheduler.include-coordinator=true\nhttp-server.http.port={port}\n\
                 discovery.uri=http://127.0.0.1:{port}\nnode.internal-address=127.0.0.1\n"
            ),
        )
        .expect("config");
        std::fs::write(etc.join("catalog/lake.properties"), lake(catalog, s3)).expect("catalog");
        let log = std::fs::File::create(dir.join("trino.log")).expect("log");
        let child = Command::new(java.join("bin/java"))
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djdk.attach.allowAttachSelf=true"])
            .args(["--add-modules=jdk.incubator.vector", "-cp"])
            .arg(format!("{}:{}/*", home.display(), main.display()))
            .args(["-Dnode.environment=test", "-Dnode.bind-ip=127.0.0.1"])
            .arg(format!("-Dconfig={}", etc.join("config.properties").display()))
            .arg(format!("-Dcatalog.config-dir={}", etc.join("catalog").display()))
            .arg(format!("-Dnode.data-dir={}", etc.join("data").display()))
            .arg("Main")
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone"))
            .stderr(log)
            .spawn()
            .expect("trino starts");
        Self { child, port }
    }
}

fn lake(catalog: &str, s3: Option<(&str, &str, &str)>) -> String {
    let mut lines = format!(
        "connector.name=iceberg\niceberg.catalog.type=rest\niceberg.rest-catalog.uri={catalog}\nfs.hadoop.enabled=false\n"
    );
    match s3 {
        None => lines.push_str("fs.native-local.enabled=true\nlocal.location=/\n"),
        Some((endpoint, key, secret)) => lines.push_str(&format!(
            "fs.native-s3.enabled=true\ns3.endpoint={endpoint}\ns3.region=us-east-1\ns3.path-style-access=true\n\
             s3.aws-access-key={key}\ns3.aws-secret-key={secret}\n"
        )),
    }
    lines
}

impl Drop for Trino {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
