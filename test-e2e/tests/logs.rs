//! Logs: the format kubelet reads, no line lost, none torn.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use test_e2e::eventually::eventually;
use test_e2e::harness::Server;
use test_e2e::logs::{self, Line};
use test_e2e::specs::Container;

/// The CRI writers split application lines here.
const PARTIAL: usize = 16 << 10;

#[tokio::test]
async fn lines_have_time_stream_and_tag() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("format").await;
    let (code, _) = pod
        .finish(&Container::new("main", &image).shell("echo one; echo two >&2; echo; printf tail"))
        .await;
    assert_eq!(code, 0);
    let path = pod.log("main.log");
    let lines = logs::read(&path);
    let stdout: Vec<_> = lines
        .iter()
        .filter(|line| line.stream == "stdout")
        .map(tagged)
        .collect();
    assert_eq!(
        stdout,
        [
            (false, "one".to_owned()),
            (false, String::new()),
            (true, "tail".to_owned())
        ]
    );
    let stderr: Vec<_> = lines
        .iter()
        .filter(|line| line.stream == "stderr")
        .map(tagged)
        .collect();
    assert_eq!(stderr, [(false, "two".to_owned())]);
    let times: Vec<_> = lines.iter().map(|line| &line.time).collect();
    assert!(
        times
            .iter()
            .all(|time| time.len() >= "2026-11-20T18:05:00.123456789Z".len()),
        "nanoseconds: {times:?}"
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    server.close().await;
}

fn tagged(line: &Line) -> (bool, String) {
    (line.partial, String::from_utf8_lossy(&line.content).into_owned())
}

#[tokio::test]
async fn long_lines_are_split() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("long").await;
    let spec = Container::new("main", &image)
        .shell("yes | head -c 80000 | while read x; do printf %s $x; done; echo end");
    assert_eq!(pod.finish(&spec).await.0, 0);
    let lines = logs::read(&pod.log("main.log"));
    assert!(lines.iter().all(|line| line.content.len() <= PARTIAL));
    let (last, parts) = lines.split_last().unwrap();
    assert!(!last.partial && parts.iter().all(|line| line.partial), "P … P F");
    assert_eq!(
        logs::stream(&lines, "stdout"),
        format!("{}end\n", "y".repeat(40_000)).into_bytes()
    );
    server.close().await;
}

#[tokio::test]
async fn a_flood_arrives_whole() {
    let server = Server::start().await;
    let image = server.probe().await;
    let pod = server.run_pod("flood").await;
    let id = pod
        .start(&Container::new("main", &image).args(&["print", "20000000"]))
        .await;
    assert_eq!(server.client.exited(&id).await.exit_code, 0);
    let lines = logs::read(&pod.log("main.log"));
    assert_eq!(
        logs::stream(&lines, "stdout").len(),
        20_000_000,
        "all is there once the exit is reported"
    );
    server.close().await;
}

fn ends_with(path: &Path, end: &[u8]) -> bool {
    let file = fs::File::open(path).unwrap();
    let start = file.metadata().unwrap().len().checked_sub(end.len() as u64);
    let mut tail = vec![0; end.len()];
    start.is_some_and(|start| file.read_at(&mut tail, start).unwrap() == end.len()) && tail == end
}

#[tokio::test]
async fn rotation_under_full_load_neither_loses_nor_tears_a_line() {
    const LINES: usize = 2_000_000;
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("rotate").await;
    // In blocks that end anywhere in a line, as fast as it can.
    let counter = Container::new("main", &image).shell(&format!("seq 1 {LINES}; sleep 100000"));
    let id = pod.start(&counter).await;
    let path = pod.log("main.log");
    let last = format!(" {LINES}\n");
    let mut pieces = Vec::new();
    // As long as it writes; and three times when nothing is in its way any more.
    let mut quiet = 0;
    while quiet < 3 {
        let rotated = pod.log(&format!("main.log.{}", pieces.len()));
        fs::rename(&path, &rotated).unwrap();
        server.client.reopen_log(&id).await.unwrap();
        assert!(path.exists(), "the new file is there when the call returns");
        pieces.push(rotated);
        // The writer takes the new file up after the batch in its hands: the end may be in a piece that was looked at before.
        quiet += usize::from(pieces.iter().any(|piece| ends_with(piece, last.as_bytes())));
    }
    pieces.push(path);
    let mut number = 0;
    for piece in &pieces {
        let lines = logs::read(piece);
        assert!(lines.iter().all(|line| !line.partial), "a file ends with a line");
        for line in lines {
            number += 1;
            assert_eq!(
                line.content,
                number.to_string().into_bytes(),
                "{}",
                piece.display()
            );
        }
    }
    assert_eq!(number, LINES);
    assert!(
        pieces.len() > 6,
        "it was rotated while it wrote: {}",
        pieces.len()
    );
    server.close().await;
}

#[tokio::test]
async fn reopen_of_what_does_not_run_creates_nothing() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("ended").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/true"]))
        .await;
    server.client.exited(&id).await;
    fs::remove_file(pod.log("main.log")).unwrap();
    assert!(server.client.reopen_log(&id).await.is_err());
    assert!(!pod.log("main.log").exists());
    server.close().await;
}

#[tokio::test]
async fn a_killed_daemon_loses_no_line() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("killed").await;
    let counter = "i=0; while :; do echo line $i; i=$((i+1)); usleep 200; done";
    let id = pod.start(&Container::new("main", &image).shell(counter)).await;
    let path = pod.log("main.log");
    let lines = || logs::parse(&whole_lines(&path)).len();
    for _ in 0..3 {
        server.kill9().await;
        let before = lines();
        eventually("the log grows while the daemon is dead", || async {
            (lines() > before + 200).then_some(())
        })
        .await;
        server.restart().await;
    }
    server
        .client
        .reopen_log(&id)
        .await
        .expect("the restarted daemon still reaches the log writer");
    server.client.stop(&id, 0).await.unwrap();
    let all = String::from_utf8(logs::stream(&logs::read(&path), "stdout")).unwrap();
    let count = all.lines().count();
    for (number, line) in all.lines().take(count - 1).enumerate() {
        assert_eq!(line, format!("line {number}"));
    }
    server.close().await;
}

fn whole_lines(path: &std::path::Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap_or_default();
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    bytes.truncate(end);
    bytes
}

/// A log is opened behind CreateContainer's answer, for the start that mostly follows at once. What becomes of it until then
/// is kubelet's business.
#[tokio::test]
async fn a_log_that_was_removed_before_the_start_is_made_again() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("early").await;
    let spec = Container::new("main", &image).shell("echo heard");
    let id = pod.create(&spec).await.unwrap();
    let path = pod.log("main.log");
    eventually("the log is opened", || async { path.exists().then_some(()) }).await;
    assert_eq!(fs::read(&path).unwrap(), b"");
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    server.client.start(&id).await.unwrap();
    server.client.exited(&id).await;
    assert_eq!(logs::stream(&logs::read(&path), "stdout"), b"heard\n");

    // One that was never started leaves no descriptor of its log, and none appears after its removal.
    let spec = Container::new("never", &image).shell("echo unheard");
    let id = pod.create(&spec).await.unwrap();
    server.client.remove(&id).await.unwrap();
    let path = pod.log("never.log");
    assert!(fs::read(&path).is_ok_and(|log| log.is_empty()) || !path.exists());
    server.close().await;
}

#[tokio::test]
async fn no_log_path_is_no_log() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("silent").await;
    let mut spec = Container::new("main", &image).shell("yes | head -c 300000; exit 4");
    spec.0.log_path = String::new();
    let id = pod.start(&spec).await;
    assert_eq!(
        server.client.exited(&id).await.exit_code,
        4,
        "it does not block on a pipe that nobody reads"
    );
    server.close().await;
}
