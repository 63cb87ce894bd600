//! Compiles `dunlin/v1/*.proto` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["registry", "device_link", "twins", "methods", "c2d"]
        .map(|name| format!("dunlin/v1/{name}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    tonic_prost_build::configure().compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}
