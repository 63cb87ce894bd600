//! A registry of 100,000 devices: how fast it is filled in bulk, what it weighs, how long a page and
//! a start take. curl is the client: one connection, calls in turn.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::peers::hub;
use super::{Bench, Options, median, number, settled, text};
use crate::Result;
use crate::process::output;

pub const DEVICES: u32 = 100_000;
/// Rows of one call, and devices of one page: what the hub takes at most.
const ROWS: u32 = 100;
const PAGES: usize = 20;
const ROUNDS: u32 = 5;

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let devices = options.devices.unwrap_or(DEVICES);
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let (full, empty) = (bench.folder.join("full"), bench.folder.join("empty"));

    let filled = hub(bench, &full, None)?;
    let (before, _) = settled(filled.server.pid())?;
    let api = Api::new(&filled.login, &full)?;
    let times = fill(bench, &api, devices)?;
    let took: f64 = times.iter().sum();
    println!(
        "{devices} devices created, {ROWS} a call, in {took:.1} s: {:.0} devices/s, \
         median call {:.1} ms, slowest {:.1} ms",
        f64::from(devices) / took,
        median(&times) * 1e3,
        times.iter().copied().fold(0.0, f64::max) * 1e3
    );
    let page = api.url("/devices", "top=1000&");
    let times = api.call(&vec![page; PAGES], &bench.folder)?;
    println!("a page of 1,000, keys opened: median {:.1} ms of {PAGES}", median(&times) * 1e3);
    let begun = Instant::now();
    let pages = api.list(devices, &bench.folder)?;
    println!(
        "all {devices} listed in order, each once, on {pages} pages in {:.1} s, a process of curl each",
        begun.elapsed().as_secs_f64()
    );
    let count = api.url("/statistics/devices", "");
    let (_, counted) = api.get(&count, None, &bench.folder)?;
    if number(&counted, "totalDeviceCount")? != f64::from(devices) {
        return Err(format!("{devices} devices were created, but the hub counts {counted}"));
    }
    let times = api.call(&vec![count; PAGES], &bench.folder)?;
    println!("statistics: median {:.1} ms of {PAGES}", median(&times) * 1e3);
    let (after, seconds) = settled(filled.server.pid())?;
    println!("RSS {before} KiB before, {after} KiB after, settled after {seconds} s");
    filled.server.stop()?;
    let size = fs::metadata(full.join("hub.sqlite")).map_or(0, |file| file.len());
    println!(
        "database: {:.1} MB, {:.0} B a device",
        size as f64 / 1e6,
        size as f64 / f64::from(devices)
    );

    hub(bench, &empty, None)?.server.stop()?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (data, times) in [(&full, &mut with), (&empty, &mut without)] {
            let hub = hub(bench, data, None)?;
            times.push(hub.ready_after.as_secs_f64() * 1e3);
            hub.server.stop()?;
        }
    }
    println!(
        "start to ready, median of {rounds}: {:.0} ms with {devices} devices, {:.0} ms with none",
        median(&with),
        median(&without)
    );
    Ok(true)
}

/// Creates devices in bulk. Seconds that each call took.
pub fn fill(bench: &Bench, api: &Api, devices: u32) -> Result<Vec<f64>> {
    let mut calls = Vec::new();
    for call in 0..devices.div_ceil(ROWS) {
        let mut rows = String::from("[");
        for n in call * ROWS..devices.min((call + 1) * ROWS) {
            let comma = if rows.len() > 1 { "," } else { "" };
            let _ = write!(rows, "{comma}{{\"id\":\"{}\",\"importMode\":\"create\"}}", name(n));
        }
        rows.push(']');
        let body = bench.folder.join(format!("rows-{call}.json"));
        fs::write(&body, rows).map_err(|error| format!("cannot write rows: {error}"))?;
        calls.push(format!("data-binary = \"@{}\"\n{}", body.display(), api.url("/devices", "")));
    }
    api.call(&calls, &bench.folder)
}

fn name(device: u32) -> String {
    format!("bench-{device:06}")
}

/// The hub's REST API, as its owner.
pub struct Api {
    base: String,
    token: String,
    ca: String,
}

impl Api {
    pub fn new(login: &str, data: &Path) -> Result<Self> {
        let part = |name: &str| {
            let part = login.split(';').find_map(|part| part.strip_prefix(name));
            part.ok_or_else(|| format!("no {name} in the owner's connection string"))
        };
        let hub_json = fs::read_to_string(data.join("hub.json"))
            .map_err(|error| format!("cannot read hub.json: {error}"))?;
        let (host, key) = (part("HostName=")?, part("SharedAccessKey=")?);
        let name = host.split(':').next().unwrap_or(host);
        // A token that outlives every measurement; OpenSSL signs it, as any client could.
        let script = "set -e
            se=$(($(date +%s) + 86400))
            hex=$(printf %s \"$2\" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \\n')
            sig=$(printf '%s\\n%s' \"$1\" $se |
                openssl dgst -sha256 -mac HMAC -macopt hexkey:$hex -binary | openssl base64 -A |
                sed 's/+/%2B/g; s,/,%2F,g; s/=/%3D/g')
            echo \"SharedAccessSignature sr=$1&sig=$sig&se=$se&skn=iothubowner\"";
        let token = output(Command::new("sh").args(["-c", script, "sh", name, key]))?;
        Ok(Self {
            base: format!("https://{host}"),
            token: token.trim().to_owned(),
            ca: text(&hub_json, "ca")?,
        })
    }

    fn url(&self, path: &str, query: &str) -> String {
        format!("url = \"{}{path}?{query}api-version=2021-04-12\"", self.base)
    }

    /// Goes through all pages of the list; fails unless they hold each device once, in order.
    fn list(&self, devices: u32, folder: &Path) -> Result<u32> {
        let (mut listed, mut pages, mut next) = (0, 0, None::<String>);
        loop {
            let (head, body) = self.get(&self.url("/devices", ""), next.as_deref(), folder)?;
            pages += 1;
            for rest in body.split("\"deviceId\":\"").skip(1) {
                let id = rest.split('"').next().unwrap_or_default();
                if id != name(listed) {
                    return Err(format!("page {pages} has {id} where {} belongs", name(listed)));
                }
                listed += 1;
            }
            let token = head.lines().find_map(|line| line.strip_prefix("x-ms-continuation: "));
            next = token.map(|token| token.trim().to_owned());
            if next.is_none() {
                break;
            }
        }
        if listed == devices {
            return Ok(pages);
        }
        Err(format!("{devices} devices were created, but {listed} are listed on {pages} pages"))
    }

    /// Head and body of an answer, which must be 200.
    fn get(&self, url: &str, next: Option<&str>, folder: &Path) -> Result<(String, String)> {
        let (head, body) = (folder.join("head"), folder.join("body"));
        let next = next.map(|token| format!("header = \"x-ms-continuation: {token}\"\n"));
        let config = format!(
            "{url}\nheader = \"authorization: {}\"\n{}cacert = \"{}\"\nsilent\nfail\nhttp1.1\n\
             dump-header = \"{}\"\noutput = \"{}\"\n",
            self.token,
            next.unwrap_or_default(),
            self.ca,
            head.display(),
            body.display()
        );
        let file = folder.join("curl.conf");
        fs::write(&file, config).map_err(|error| format!("cannot write for curl: {error}"))?;
        output(Command::new("curl").arg("--config").arg(&file))?;
        let read = |path| fs::read_to_string(path).map_err(|error| format!("no answer: {error}"));
        Ok((read(head)?, read(body)?))
    }

    /// Seconds each call took, all on one connection. Fails unless every one is answered 200.
    fn call(&self, calls: &[String], folder: &Path) -> Result<Vec<f64>> {
        let each = |call: &String| {
            format!(
                "{call}\nheader = \"authorization: {}\"\nheader = \"content-type: \
                 application/json\"\ncacert = \"{}\"\nsilent\noutput = \"/dev/null\"\nwrite-out = \"%{{http_code}} %{{time_total}}\\n\"\n",
                self.token, self.ca
            )
        };
        let config = calls.iter().map(each).collect::<Vec<_>>().join("next\n");
        let file = folder.join("curl.conf");
        fs::write(&file, config).map_err(|error| format!("cannot write for curl: {error}"))?;
        let answers = output(Command::new("curl").arg("--config").arg(&file))?;
        let times: Option<Vec<f64>> = answers
            .lines()
            .map(|line| line.strip_prefix("200 ").and_then(|time| time.parse().ok()))
            .collect();
        match times {
            Some(times) if times.len() == calls.len() => Ok(times),
            _ => Err(format!("not every call was answered 200: {answers:.200}")),
        }
    }
}
