//! What a container can say about itself: goes into the test images as `/probe`.
//!
//! Only std, and one answer per subcommand, so that a test reads what the kernel shows a process and
//! nothing that a shell has changed on the way. (Signals are the exception: Rust's own start-up
//! ignores SIGPIPE, so the golden test of signals runs busybox `cat`.)

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

#[path = "probe/climb.rs"]
mod climb;
#[path = "probe/hook.rs"]
mod hook;
#[path = "probe/scan.rs"]
mod scan;
#[path = "probe/swap.rs"]
mod swap;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let done = match words.as_slice() {
        ["inherit"] => print(&inherited()),
        ["effective-uid"] => writeln!(io::stdout(), "Effective uid: {}", effective_uid()),
        ["inherit-and-stay"] => print(&inherited()).and_then(|()| sleep()),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap_or(255)),
        ["sleep"] => sleep(),
        ["hello"] => hello(),
        ["lines", write, total] => lines(write.parse().unwrap_or(100), total.parse().unwrap_or(0)),
        ["print", bytes] => flood(bytes.parse().unwrap_or(0)),
        ["serve", port] => serve(port.parse().unwrap_or(0)),
        ["answer", addresses @ ..] => answer(addresses),
        ["connect", address] => connect(address),
        ["writefile", path, text] => fs::write(path, text),
        ["overwrite", path] => overwrite(path),
        ["memory", mebibytes] => memory(mebibytes.parse().unwrap_or(0)),
        ["climb"] => climb::climb(),
        ["uproot"] => climb::uproot(),
        ["swap", one, other, stop_file] => swap::swap(one, other, stop_file),
        ["hook", stage, journal] => hook::hook(stage, journal),
        ["scan", host_path, reversed_secret, stop_file] => scan::scan(host_path, reversed_secret, stop_file),
        _ => {
            eprintln!("probe: what is {words:?}?");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers each connection with what it has sent, once it has closed its half.
fn answer(addresses: &[&str]) -> io::Result<()> {
    let listeners: io::Result<Vec<TcpListener>> = addresses.iter().map(TcpListener::bind).collect();
    println!("listening");
    for listener in listeners? {
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut heard = b"got ".to_vec();
                    // A client that breaks off needs no answer.
                    let _ = stream
                        .read_to_end(&mut heard)
                        .and_then(|_| stream.write_all(&heard));
                });
            }
        });
    }
    sleep()
}

fn print(value: &Value) -> io::Result<()> {
    writeln!(io::stdout(), "{value}")
}

/// Everything a process gets from whoever started it.
fn inherited() -> Value {
    let status: BTreeMap<String, String> = fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| {
            (
                key.to_owned(),
                value.split_whitespace().collect::<Vec<_>>().join(" "),
            )
        })
        .collect();
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim_end().to_owned();
    let environment: BTreeMap<String, String> = env::vars_os()
        .map(|(key, value)| {
            (
                key.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    json!({
        "status": status,
        "limits": limits(),
        "fds": descriptors(),
        "oom_score_adj": text("/proc/self/oom_score_adj"),
        "cgroup": text("/proc/self/cgroup").lines().collect::<Vec<_>>(),
        "stat": text("/proc/self/stat"),
        "namespaces": namespaces(),
        "cwd": env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        "args": env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "env": environment,
    })
}

/// As whom it acts: not the user that started it, when it is set-uid.
fn effective_uid() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap_or_default();
    uids.split_whitespace().nth(1).unwrap_or("?").to_owned()
}

/// Kind → what the kernel calls the namespace.
fn namespaces() -> BTreeMap<String, String> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    kinds
        .into_iter()
        .filter_map(|kind| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
            Some((kind.to_owned(), link.display().to_string()))
        })
        .collect()
}

/// Name → [soft, hard], as /proc prints them.
fn limits() -> BTreeMap<String, [String; 2]> {
    let table = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let (name, values) = line.split_at_checked(26)?;
            let mut values = values.split_whitespace().map(str::to_owned);
            Some((name.trim().to_owned(), [values.next()?, values.next()?]))
        })
        .collect()
}

/// Descriptor → what it is, but for the one that lists them.
fn descriptors() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        if let Ok(target) = fs::read_link(entry.path()) {
            let own_listing = target.as_os_str().as_bytes().ends_with(b"/fd");
            if !own_listing {
                found.insert(
                    entry.file_name().display().to_string(),
                    target.display().to_string(),
                );
            }
        }
    }
    found
}

fn sleep() -> io::Result<()> {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Says one byte, and stays.
fn hello() -> io::Result<()> {
    io::stdout().write_all(b"!\n")?;
    sleep()
}

/// `total` bytes in lines of 100, `write` bytes with each system call.
fn lines(write: usize, total: usize) -> io::Result<()> {
    let mut line = [b'x'; 100];
    line[99] = b'\n';
    // Whole lines before and after, so that every write begins where the last one ended.
    let stock = line.repeat(write.div_ceil(line.len()) + 1);
    // Not through `Stdout`, which would cut at the last newline.
    let mut out = fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut written = 0;
    while written < total {
        let begin = written % line.len();
        out.write_all(&stock[begin..begin + write.min(total - written)])?;
        written += write;
    }
    Ok(())
}

/// `bytes` bytes in lines of 100.
fn flood(bytes: usize) -> io::Result<()> {
    let mut line = [b'x'; 100];
    line[99] = b'\n';
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout());
    for _ in 0..bytes / line.len() {
        out.write_all(&line)?;
    }
    out.write_all(&line[..bytes % line.len()])?;
    out.flush()
}

/// Tells everyone who connects who they are.
fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let peer = stream.peer_addr()?.ip();
        let _ = writeln!(stream, "hello {peer}");
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<()> {
    let address = address.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    write!(io::stdout(), "{answer}")
}

/// Opens for writing what must not be writable: the runtime's own binary through /proc.
fn overwrite(path: &str) -> io::Result<()> {
    fs::File::options()
        .write(true)
        .open(path)?
        .write_all(b"overwritten")
}

/// Touches so much memory, and stays.
fn memory(mebibytes: usize) -> io::Result<()> {
    let mut held = vec![0u8; mebibytes << 20];
    for page in held.chunks_mut(4096) {
        page[0] = 1;
    }
    println!(
        "holding {mebibytes} MiB, {}",
        held.iter().filter(|byte| **byte == 1).count()
    );
    sleep()
}
