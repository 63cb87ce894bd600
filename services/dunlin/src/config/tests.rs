//! The order of the sources, and the committed reference.

use std::fmt::Write;
use std::fs;

use super::*;

fn load_text(file: &str, environment: &[(&str, &str)], flags: &str) -> Result<Loaded> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hub.toml");
    fs::write(&path, file).expect("written");
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(Some(&path), &environment, flags.parse().expect("TOML"))
}

#[test]
fn flags_come_before_the_environment_before_the_file() {
    let file = "[gateway]\nmqtt_port = 1\nhttps_port = 1\nworkers = 1\n[admin]\nport = 1\n";
    let environment = [
        ("DUNLIN__GATEWAY__MQTT_PORT", "2"),
        ("DUNLIN__GATEWAY__HTTPS_PORT", "2"),
        ("DUNLIN__HUB__HOSTNAMES", r#"["a.example", "b.example"]"#),
        ("DUNLIN__MESH__REGISTRY", "http://registry:1"),
        ("DUNLIN_LOG", "debug"),
    ];
    let loaded = load_text(file, &environment, "[gateway]\nhttps_port = 3\n").expect("loaded");
    let config = loaded.config;
    assert_eq!((config.gateway.https_port, config.gateway.mqtt_port), (3, 2));
    assert_eq!((config.gateway.workers, config.admin.port), (1, 1));
    assert_eq!(config.mesh.registry, "http://registry:1");
    assert!(loaded.https_port_asked);
    assert_eq!(
        config.names(),
        ["a.example", "b.example", "localhost", "hub.localhost", "127.0.0.1"]
    );
    assert!(!load_text("", &[], "").expect("loaded").https_port_asked);
}

#[test]
fn the_usual_variable_names_where_traces_go_unless_the_hub_is_told() {
    let usual = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://usual:4317");
    for (file, environment, want) in [
        ("", &[usual][..], "http://usual:4317"),
        ("[telemetry]\notlp_endpoint = \"http://file:4317\"", &[usual], "http://file:4317"),
        ("", &[usual, ("DUNLIN__TELEMETRY__OTLP_ENDPOINT", "http://hub:4317")], "http://hub:4317"),
        ("", &[], ""),
    ] {
        let config = load_text(file, environment, "").expect("loaded").config;
        assert_eq!(config.telemetry.otlp_endpoint, want, "{file} {environment:?}");
    }
}

#[test]
fn mistakes_are_named() {
    #[track_caller]
    fn check(file: &str, environment: &[(&str, &str)], want: &str) {
        let error = format!("{:#}", load_text(file, environment, "").expect_err("a mistake"));
        assert!(error.contains(want), "{error}");
    }
    check("[gateway]\nmqttport = 1", &[], "mqttport");
    check("[gatway]", &[], "gatway");
    check("[gateway", &[], "not TOML");
    check("[gateway]\nmqtt_port = 70000", &[], "mqtt_port");
    check("", &[("DUNLIN__GATEWAY__MQTT_PORT", "many")], "mqtt_port");
    check("", &[("DUNLIN__ADMIN", "x")], "admin");
    let error = load(Some(Path::new("/no/such.toml")), &Environment::new(), Table::new());
    assert!(format!("{:#}", error.expect_err("missing")).contains("/no/such.toml"));
}

/// The section of the reference, the crate its struct is in, and its name.
const SECTIONS: [(&str, &str, &str); 10] = [
    ("hub", "services/dunlin", "Hub"),
    ("tls", "services/dunlin", "Tls"),
    ("gateway", "services/gateway", "Config"),
    ("twins", "crates/model", "Limits"),
    ("methods", "services/methods", "Config"),
    ("c2d", "services/c2d", "Config"),
    ("stores", "services/dunlin", "Stores"),
    ("mesh", "crates/runtime", "Config"),
    ("admin", "services/dunlin", "Admin"),
    ("telemetry", "crates/runtime", "TelemetryConfig"),
];

/// The reference: values from the defaults, words from the doc comments. Run with
/// `DUNLIN_WRITE_REFERENCE=1` to write the committed copy.
#[test]
fn the_committed_reference_is_current_and_gives_the_defaults() {
    let defaults = Table::try_from(Config::default()).expect("TOML");
    assert_eq!(defaults.len(), SECTIONS.len(), "every section is listed above");
    let mut made = "# Every setting of the hub, with its default. `dunlin config --print` prints \
                    this; `dunlin up\n# --config FILE` and `dunlin run --config FILE` read it. A \
                    setting `key` of `[section]` is\n# overridden by the environment variable \
                    DUNLIN__SECTION__KEY, and that by a flag.\n"
        .to_owned();
    for (section, folder, name) in SECTIONS {
        let source = struct_of(folder, name);
        let words = comments_before(&source, &format!("pub struct {name} {{"));
        write!(made, "\n{words}[{section}]\n").expect("a string");
        let mut settings: Vec<_> = defaults[section].as_table().expect("a table").iter().collect();
        settings.sort_by_key(|(key, _)| source.find(&format!("pub {key}: ")));
        for (key, value) in settings {
            let words = comments_before(&source, &format!("pub {key}: "));
            assert!(!words.is_empty(), "{section}.{key} has no doc comment");
            writeln!(made, "{words}{key} = {value}").expect("a string");
        }
    }
    let path = root().join("docs/hub.toml");
    if std::env::var_os("DUNLIN_WRITE_REFERENCE").is_some() {
        fs::write(&path, &made).expect("written");
    }
    let committed = fs::read_to_string(&path).expect("committed");
    assert!(committed == made, "docs/hub.toml is old: run this with DUNLIN_WRITE_REFERENCE=1");
    assert_eq!(made.parse::<Table>().expect("TOML"), defaults);
    load(Some(&path), &Environment::new(), Table::new()).expect("it is a configuration");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of a struct, from its file's beginning to its end.
fn struct_of(folder: &str, name: &str) -> String {
    let mut folders = vec![root().join(folder).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).expect("read");
                let Some(at) = text.find(&format!("pub struct {name} {{")) else { continue };
                let begin = text[..at].rfind("\n\n").map_or(0, |at| at + 1);
                // Others may have that name, but are not read from a file.
                if text[begin..at].contains("deny_unknown_fields") {
                    let end = at + text[at..].find("\n}").expect("an end");
                    return text[begin..end].to_owned();
                }
            }
        }
    }
    panic!("no struct {name} in {folder}");
}

/// The doc comment above the first line that begins so, as TOML comments.
fn comments_before(source: &str, line: &str) -> String {
    let above = source.lines().take_while(|one| !one.trim_start().starts_with(line));
    let mut words = String::new();
    for one in above.map(str::trim) {
        match one.strip_prefix("///") {
            Some(text) => writeln!(words, "#{text}").expect("a string"),
            None if one.starts_with("#[") => {}
            None => words.clear(),
        }
    }
    words
}
