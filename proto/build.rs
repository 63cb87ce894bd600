//! Compiles `dunlin/v1/*.proto` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["registry", "device_link", "twins", "methods", "c2d", "mesh"]
        .map(|name| format!("dunlin/v1/{name}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallBuffers")
        // What is only passed on is not copied when it is read.
        .bytes(".dunlin.v1.Call.message")
        .bytes(".dunlin.v1.Answer.message")
        .compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}
