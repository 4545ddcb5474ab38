//! `protoc`, as far as prost-build calls it: `-I<dir>` or `-I <dir>`, `-o <file>`, then the sources.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut includes, mut sources, mut output) = (Vec::new(), Vec::new(), None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--include_imports" | "--include_source_info" => {}
            "--experimental_allow_proto3_optional" => {}
            "-o" => output = args.next(),
            "-I" => includes.extend(args.next().map(PathBuf::from)),
            _ if arg.starts_with("-I") => includes.push(PathBuf::from(&arg[2..])),
            _ if arg.starts_with('-') => return Err(format!("this protoc does not know {arg}").into()),
            _ => sources.push(PathBuf::from(arg)),
        }
    }
    let output = output.ok_or("no -o <file>")?;
    std::fs::write(output, protox::compile(sources, includes)?.encode_to_vec())?;
    Ok(())
}
