//! Compiles the BPF objects and generates the protobuf types. The only place with clang flags.

use std::error::Error;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;
use tonic_prost_build::FileDescriptorSet;

/// Columns of fixed-width numbers (and of kinds, all below 128) have the same wire form as a byte
/// string of little-endian numbers. Generated as such, a column is filled once and then moved by
/// memcpy: encoding costs nothing per event, decoding borrows from the receive buffer.
const COLUMNS: [&str; 6] = ["time_delta", "kind", "entity", "pid", "sequence_delta", "slot"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    println!("cargo:rerun-if-changed=bpf");
    // The agent's probes, and what the harness compares their rings with.
    for name in ["tapio.bpf", "baseline.bpf"] {
        SkeletonBuilder::new()
            .source(format!("bpf/{name}.c"))
            .clang_args(["-Ibpf", "-Wall", "-Werror", "-mcpu=v3"])
            .obj(out.join(format!("{name}.o")))
            .build()?;
    }

    println!("cargo:rerun-if-changed=proto");
    let mut files = protox::compile(["tapio/v1/collector.proto", "tapio/v1/event.proto"], ["proto"])?;
    // Reflection serves the descriptor as written; only the generated types see columns as bytes.
    std::fs::write(out.join("descriptor.bin"), encode(&files))?;
    columns_as_bytes(&mut files);
    // Details in the order of their names, so that the same incident is the same bytes.
    tonic_prost_build::configure().bytes(".").btree_map(".tapio.v1.IncidentFact").compile_fds(files)?;
    Ok(())
}

fn encode(files: &FileDescriptorSet) -> Vec<u8> {
    prost::Message::encode_to_vec(files)
}

fn columns_as_bytes(files: &mut FileDescriptorSet) {
    use prost_types::field_descriptor_proto::{Label, Type};
    let messages = files.file.iter_mut().flat_map(|file| &mut file.message_type);
    for message in messages.filter(|message| message.name() == "EventBatch") {
        for field in message.field.iter_mut().filter(|field| COLUMNS.contains(&field.name())) {
            field.set_type(Type::Bytes);
            field.set_label(Label::Optional);
            field.type_name = None;
        }
    }
}
