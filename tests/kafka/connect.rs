//! Kafka Connect, standalone: a file goes into a topic by the file source and comes out by the file sink.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::broker::free_ports_of;
use super::support::cache::source;
use super::support::maven;

const PATIENCE: Duration = Duration::from_secs(120);
const LINES: usize = 1000;

/// Kills what it holds.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a worker until the sink's file is the source's file; then ends it.
pub fn drive(boot: &str, dir: &Path) -> Result<Vec<String>, String> {
    let dir = dir.join("connect");
    std::fs::create_dir_all(&dir).expect("directory");
    let (input, output, log) = (dir.join("in.txt"), dir.join("out.txt"), dir.join("connect.log"));
    let lines: String = (0..LINES).map(|n| format!("line {n} of the file\n")).collect();
    std::fs::write(&input, &lines).expect("input");
    let _worker = Running(start(boot, &dir, &log));
    let begun = Instant::now();
    while std::fs::read_to_string(&output).unwrap_or_default() != lines {
        if begun.elapsed() > PATIENCE {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("the sink's file is not the source's after {PATIENCE:?}:\n{log}"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // The sink commits its offsets at its next flush; the group then shows in the worker's requests.
    std::thread::sleep(Duration::from_millis(1500));
    Ok(vec![format!("standalone worker: {LINES} lines through file source, topic and file sink, in order")])
}

fn start(boot: &str, dir: &Path, log: &Path) -> Child {
    let file = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("settings");
        path
    };
    let worker = format!(
        "bootstrap.servers={boot}\nkey.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.storage.StringConverter\noffset.flush.interval.ms=500\n\
         offset.storage.file.filename={}\nlisteners=http://127.0.0.1:{}\nconsumer.auto.offset.reset=earliest\n",
        dir.join("offsets").display(),
        free_ports_of(1)[0]
    );
    let connector = |name: &str, class: &str, path: &str, topic: &str| {
        let path = dir.join(path);
        format!(
            "name={name}\nconnector.class=org.apache.kafka.connect.file.{class}\ntasks.max=1\nfile={}\n{topic}=lines\n",
            path.display()
        )
    };
    let jars = format!("{}/*:{}/*", maven::jars("kafka").display(), maven::jars("connect").display());
    let out = std::fs::File::create(log).expect("log");
    let mut java = Command::new(maven::java17().join("bin/java"));
    java.args(["-XX:TieredStopAtLevel=1", "-cp", &jars]);
    java.arg(format!("-Dlog4j2.configurationFile={}", source("support/java/log4j2.properties").display()));
    java.arg("org.apache.kafka.connect.cli.ConnectStandalone");
    java.arg(file("worker.properties", worker));
    java.arg(file("source.properties", connector("in", "FileStreamSourceConnector", "in.txt", "topic")));
    java.arg(file("sink.properties", connector("out", "FileStreamSinkConnector", "out.txt", "topics")));
    java.stdin(Stdio::null()).stdout(out.try_clone().expect("clone")).stderr(out);
    java.spawn().expect("java runs")
}
