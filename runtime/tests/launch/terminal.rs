//! Terminals.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use serde_json::json;

use crate::Test;
use crate::sandbox::{Running, Sandbox};

pub(crate) const TESTS: &[Test] = &[
    (
        "terminal::a_container_with_a_terminal",
        a_container_with_a_terminal,
    ),
    ("terminal::an_exec_with_a_terminal", an_exec_with_a_terminal),
];

/// Everything that is printed on a terminal until its last user is gone.
fn read_all(master: OwnedFd) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    let mut master = std::fs::File::from(master);
    // The end of a terminal is EIO.
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).unwrap().replace('\r', "")
}

fn printed(mut running: Running) -> String {
    let text = read_all(running.console.take().expect("a terminal"));
    assert_eq!(running.finish().code, Some(0), "{text}");
    text
}

const SCRIPT: &str = "tty; stat -L -c '%t:%T %u' /dev/console /proc/self/fd/0; stty size 2>/dev/null || /bin/busybox stty size; \
                      readlink /proc/self/fd/1; set -- $(cat /proc/self/stat); [ $6 = $5 ] && [ $7 != 0 ] && echo leads; \
                      ls -1 /dev/pts";

fn a_container_with_a_terminal() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/sh", "-c", SCRIPT]);
    container.spec["process"]["terminal"] = json!(true);
    container.spec["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    let text = printed(sandbox.start(&container).unwrap());
    assert_eq!(
        text,
        "/dev/pts/0\n88:0 0\n88:0 0\n33 99\n/dev/pts/0\n0\nptmx\n"
            .replace("/dev/pts/0\n0", "/dev/pts/0\nleads\n0")
    );
    // What is typed arrives, and the interrupt character is a signal.
    let mut container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "trap 'echo caught; exit 0' INT; read x; echo got $x; while :; do sleep 0.01; done",
    ]);
    container.spec["process"]["terminal"] = json!(true);
    let mut running = sandbox.start(&container).unwrap();
    let mut master = std::fs::File::from(running.console.take().unwrap());
    master.write_all(b"hello\n").unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 256]);
    while !text.contains("got hello") {
        let count = master.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    master.write_all(b"\x03").unwrap();
    assert!(read_all(master.into()).contains("caught"));
    running.finish();
}

fn an_exec_with_a_terminal() {
    let sandbox = Sandbox::new();
    let container = sandbox.container(&["/bin/sleep", "1000"]);
    let init = sandbox.start(&container).unwrap();
    let mut process = crate::sandbox::usual_spec(&[
        "/bin/sh",
        "-c",
        SCRIPT.replace("/dev/console ", "").as_str(),
    ])["process"]
        .clone();
    process["terminal"] = json!(true);
    process["user"]["uid"] = json!(1000);
    process["consoleSize"] = json!({"height": 10, "width": 20});
    let text = printed(sandbox.exec(&container, &init, &process).unwrap());
    assert_eq!(text, "/dev/pts/0\n88:0 1000\n10 20\n/dev/pts/0\nleads\n0\nptmx\n");
    init.kill();
}
