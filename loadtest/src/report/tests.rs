//! What comes of a run that is made up: its figures, its names in JSON, its page.

use std::time::Duration;

use super::*;
use crate::outcome::Tally;
use crate::process::{Cpu, Own};

/// Markup, an end of the script that holds the report, quotes, separators of lines, a placeholder.
const HOSTILE: &str =
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>'\"&amp;\u{2028}\0/*REPORT*/";

fn course() -> Result<Course> {
    let head = Head {
        target: "hub",
        server: format!("{HOSTILE}:8883"),
        name: HOSTILE.into(),
        groups: vec![HOSTILE.into()],
        devices: 2,
        workers: 1,
        tls: true,
    };
    Course::new(head, &[std::process::id().to_string()], true)
}

/// What happens in a phase.
type Step = fn(&Tally);

/// Two devices connect, warm up with one slow message, send three each, and lose the last.
async fn run() -> Result<Report> {
    let mut course = course()?;
    let tally = Tally::default();
    let steps: [(&str, Step); 4] = [
        (phase::CONNECT, |tally| {
            for millis in [10, 20] {
                tally.started(Op::Connect, 1);
                tally.done(Op::Connect, Duration::from_millis(millis));
                tally.count(Event::Up, 1);
                tally.count(Event::Connected, 1);
            }
            tally.count(Event::Silent, 1);
        }),
        (phase::WARM_UP, |tally| {
            tally.started(Op::Telemetry, 1);
            tally.done(Op::Telemetry, Duration::from_secs(9));
        }),
        (phase::HOLD, |tally| {
            tally.started(Op::Telemetry, 6);
            for millis in 1..=4 {
                tally.done(Op::Telemetry, Duration::from_millis(millis));
            }
        }),
        ("drain", |tally| {
            tally.done(Op::Telemetry, Duration::from_millis(500));
            tally.failed(Op::Telemetry, HOSTILE);
            tally.lost(HOSTILE);
        }),
    ];
    for (name, step) in steps {
        course.enter(name)?;
        step(&tally);
        tokio::time::advance(Duration::from_secs(1)).await;
        course.add(&tally.cut(), None);
        course.tick()?;
    }
    course.finish()
}

#[tokio::test(start_paused = true)]
async fn figures_are_of_the_phase_they_belong_to() -> Result<()> {
    let report = run().await?;
    assert_eq!((report.connected, report.sent, report.acked), (2, 7, 6));
    assert_eq!(report.unacknowledged, 1);
    assert!(!report.is_clean());
    assert_eq!(report.lost.all(), 1);
    let publishing = report.publishing.as_ref().context("nothing was measured")?;
    assert_eq!(publishing.measured_acked, 4, "rates are of what was acknowledged in `hold`");
    assert!(publishing.server_cpu_us_per_message.is_some());
    let latency = report.publish_ms.context("nothing was timed")?;
    assert!((499.0..501.0).contains(&latency.max), "late counts, a warm-up does not: {latency:?}");
    let telemetry = &report.ops[&Op::Telemetry];
    assert_eq!((telemetry.started, telemetry.done, telemetry.failed.all()), (7, 6, 1));
    assert_eq!(telemetry.timed, 5);
    assert_eq!(telemetry.percentiles.first(), Some(&(0.0, 1.0)));
    let (last, ms) = telemetry.percentiles.last().copied().context("no percentiles")?;
    assert!((74.0..76.0).contains(&last) && ms < latency.max, "one of five is above: {last}");
    assert_eq!((publishing.measured_seconds, publishing.messages_per_s), (1.0, 4.0));
    let phases: Vec<_> = report.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(phases, ["connect", "warm-up", "hold", "drain"]);
    assert_eq!(report.series.until, [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(report.series.connections, [2, 2, 2, 1]);
    assert_eq!(report.series.lost, [0, 0, 0, 1]);
    let curve = &report.series.ops[&Op::Telemetry];
    assert_eq!(curve.p50[0], None);
    assert_eq!(curve.failed, [0, 0, 0, 1]);
    assert_eq!(report.series.processes.len(), 2);
    assert_eq!(curve.done_per_second, [0.0, 1.0, 4.0, 1.0]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn names_in_json_are_the_ones_that_others_read() -> Result<()> {
    let json = serde_json::to_string(&run().await?)?;
    // `cargo xtask bench` looks for these texts, each of which is there once.
    for name in [
        "messages_per_s",
        "server_cpu_us_per_message",
        "client_cpu_us_per_message",
        "publish_ms",
        "connects_per_s",
        "measured_acked",
    ] {
        assert_eq!(json.matches(&format!("\"{name}\":")).count(), 1, "{name}");
    }
    let publish = json.split_once("\"publish_ms\":").map_or("", |(_, rest)| rest);
    assert!(publish.starts_with("{\"p50\":"), "{publish}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_text_for_people_moves_no_cursor() -> Result<()> {
    let mut text = Vec::new();
    run().await?.text(&mut text)?;
    let text = String::from_utf8(text)?;
    assert!(text.contains("telemetry: 6 of 7 done"), "{text}");
    assert!(text.contains("failed 1: </script>"), "{text}");
    assert!(!text.contains('\0'));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_page_holds_hostile_text_as_data_only() -> Result<()> {
    let report = run().await?;
    let page = report.page()?;
    let opened = "<script type=\"application/json\" id=\"report\">";
    let (before, rest) = page.split_once(opened).context("no data")?;
    let (data, after) = rest.split_once("</script>").context("data without an end")?;
    assert!(!data.contains('<'));
    assert!(!before.contains("alert(1)") && !after.contains("alert(1)"));
    let read: serde_json::Value = serde_json::from_str(data)?;
    assert_eq!(read["name"], HOSTILE);
    assert_eq!(read, serde_json::to_value(&report)?);
    // Nothing is fetched, and nothing that a text might smuggle in would be.
    assert!(before.contains("default-src 'none'"));
    let (before, after) = (before, after.replace("http://www.w3.org/2000/svg", ""));
    for outside in ["http:", "https:", "//cdn", "@import", "src="] {
        assert!(!before.contains(outside) && !after.contains(outside), "{outside}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn notes_say_what_a_reader_would_trip_over() -> Result<()> {
    let notes = run().await?.notes.join("\n");
    for part in
        ["coordinated omission", "1 devices of 2 dropped their TLS state", "the 7 operations"]
    {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn workers_add_up() -> Result<()> {
    let mut course = course()?;
    course.enter(phase::HOLD)?;
    for worker in 1..=3 {
        let tally = Tally::default();
        tally.count(Event::Up, 10);
        tally.started(Op::Telemetry, 1);
        tally.done(Op::Telemetry, Duration::from_millis(u64::from(worker)));
        let cpu = Cpu { user: 0.5, system: 0.0 };
        let own = Own { pid: u32::MAX - worker, cpu, rss: 1 << 20, anonymous: 1 << 10 };
        let line = serde_json::to_string(&(tally.cut(), own))?;
        let (slice, own) = serde_json::from_str(&line)?;
        course.add(&slice, Some(own));
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    course.tick()?;
    let report = course.finish()?;
    assert_eq!(report.series.connections, [30]);
    let simulator = &report.series.processes[0];
    assert!(simulator.rss_kib[0] > Some(3 << 20), "with the parent's own");
    assert!(simulator.cpu_percent[0] >= Some(150.0));
    let latency = report.publish_ms.context("nothing was timed")?;
    assert_eq!((report.sent, report.acked), (3, 3));
    assert!((1.99..2.01).contains(&latency.p50) && (2.99..3.01).contains(&latency.max));
    Ok(())
}
