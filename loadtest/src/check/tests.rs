//! Histories with each fault planted, and random ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use tempfile::TempDir;

use super::self_test::{Life, Side, World};
use super::verdict::{Count, Fault, Topic};
use super::*;
use crate::history::{Kind, Line};

const ROOM: usize = 1 << 30;

/// Histories in a folder.
struct Run {
    folder: TempDir,
    paths: Vec<PathBuf>,
}

impl Run {
    /// Of the lines of each file, with header and end.
    fn of<S: AsRef<str>>(files: &[Vec<S>], drained: bool) -> Self {
        let state = if drained { "drained" } else { "open" };
        let whole = |lines: &Vec<S>| {
            let text: String = lines.iter().map(|line| format!("{}\n", line.as_ref())).collect();
            format!("dunlin-history 1 w 1\n{text}end 1 {} {state}\n", lines.len())
        };
        Self::raw(&files.iter().map(whole).collect::<Vec<_>>())
    }

    fn raw<S: AsRef<[u8]>>(texts: &[S]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |(number, text): (usize, &S)| {
            let path = folder.path().join(format!("{number}.history"));
            std::fs::write(&path, text).expect("written");
            path
        };
        let paths = texts.iter().enumerate().map(path).collect();
        Self { folder, paths }
    }

    fn check(&self, memory: usize) -> Result<Checked> {
        let folder = self.folder.path().to_owned();
        parts::check(&self.paths, &Bounds { memory, folder })
    }

    fn faults(&self) -> Vec<(Fault, u64)> {
        self.check(ROOM).expect("a history").verdict.faults().collect()
    }

    /// What a person sees.
    fn output(&self) -> (bool, String) {
        let bounds = Bounds { memory: ROOM, folder: self.folder.path().to_owned() };
        let mut out = Vec::new();
        let clean = check(&self.paths, &bounds, &mut out).expect("a history");
        (clean, String::from_utf8(out).expect("text"))
    }
}

/// A run of one device: its worker, its back ends, the log. C2D message 1 is completed over HTTPS,
/// 2 rejected, 3 expires.
fn good() -> [Vec<&'static str>; 3] {
    let worker = "connect 1 d 1 0;send 1 d 1 1;send 1 d 1 2;send 1 d 1 3;ack 1 d 1 1;ack 1 d 1 2;\
         ack 1 d 1 3;report 1 d 1 1;reported 1 d 1 1 2;report 1 d 1 2;reported 1 d 1 2 3;told 1 d 1 2;\
         told 1 d 1 3;received 1 d 1 1;complete 1 d 1 1;completed 1 d 1 1;received 1 d 1 2;\
         reject 1 d 1 2;rejected 1 d 1 2;called 1 d 1 9;disconnect 1 d 1 0;connect 1 d 2 0;\
         send 1 d 2 1;ack 1 d 2 1;report 1 d 2 1;reported 1 d 2 1 4";
    let back_end = "desire 1 d 0 5;desired 1 d 0 5 2;desire 1 d 0 6;desired 1 d 0 6 3;\
         c2d 1 d 0 1 full;accepted 1 d 0 1;c2d 1 d 0 2 negative;accepted 1 d 0 2;c2d 1 d 0 3 negative;\
         accepted 1 d 0 3;feedback 1 d 0 1 Success;feedback 1 d 0 2 Rejected;\
         feedback 1 d 0 3 Expired;call 1 d 0 9;answer 1 d 0 9 200";
    let log = "logged 1 d 1 1 0 10;logged 1 d 1 2 0 11;logged 1 d 1 3 0 14;logged 1 d 2 1 0 15";
    [worker, back_end, log].map(|lines| lines.split(';').collect())
}

/// The good run with `from` replaced by `to`, each some lines behind another.
#[track_caller]
fn planted(from: &str, to: &str) -> Run {
    let files = good().map(|lines| lines.join(";"));
    assert_eq!(files.iter().filter(|text| text.contains(from)).count(), 1, "{from}");
    let files = files.map(|text| {
        let text = text.replace(from, to);
        text.split(';').filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    });
    Run::of(&files, true)
}

#[test]
fn what_is_right_is_right() {
    let run = Run::of(&good(), true);
    let (clean, text) = run.output();
    let want = "files=3 cut=0 lines=45 connections=2 parts=1\n\
                telemetry acked=4 lost=0 dup=0 open=0 wrong=0\n\
                reported acked=3 lost=0 dup=0 open=0 wrong=0\n\
                desired acked=2 lost=0 dup=0 open=0 wrong=0\n\
                c2d acked=3 lost=0 dup=0 open=0 wrong=0\n\
                feedback acked=3 lost=0 dup=0 open=0 wrong=0\n\
                methods acked=1 lost=0 dup=0 open=0 wrong=0\n\
                acked=16 lost=0 dup=0\n";
    assert_eq!((clean, text.as_str()), (true, want));
}

#[test]
fn each_fault_is_found() {
    #[track_caller]
    fn check(from: &str, to: &str, want: Fault) {
        let run = planted(from, to);
        assert_eq!(run.faults(), [(want, 1)], "{from} -> {to}");
        let (clean, text) = run.output();
        assert!(!clean);
        assert!(text.contains(&format!("1 x {}\n  d, ", want.text())), "{text}");
        assert!(text.contains(".history:"), "names the line: {text}");
    }
    // Telemetry.
    check("logged 1 d 1 3 0 14", "", Fault::Lost);
    check("logged 1 d 1 2 0 11", "", Fault::Lost);
    check("logged 1 d 2 1 0 15", "", Fault::Lost);
    check("1 2 0 11;logged 1 d 1 3 0 14", "1 3 0 11;logged 1 d 1 2 0 14", Fault::Disordered);
    check("0 11;logged 1 d 1 3 0 14", "0 11;logged 1 d 1 3 0 9", Fault::Disordered);
    check("logged 1 d 2 1 0 15", "logged 1 d 2 1 0 15;altered 1 d 2 1 0 16", Fault::Altered);
    check("logged 1 d 2 1 0 15", "logged 1 d 2 1 0 15;logged 1 d 2 2 0 16", Fault::LoggedUnsent);
    check("send 1 d 2 1;", "", Fault::AckedUnsent);
    // Twins.
    check("reported 1 d 1 2 3", "reported 1 d 1 2 2", Fault::ReportVersion);
    check("reported 1 d 1 1 2", "reported 1 d 1 1 3", Fault::ReportVersion);
    check("reported 1 d 2 1 4", "reported 1 d 2 1 3", Fault::ReportVersion);
    check("report 1 d 2 1;", "", Fault::ReportUnsent);
    check("desired 1 d 0 6 3", "desired 1 d 0 6 2", Fault::DesiredVersion);
    check("desired 1 d 0 5 2", "desired 1 d 0 5 4", Fault::DesiredVersion);
    check(
        "desire 1 d 0 6;desired 1 d 0 6 3",
        "desire 1 d 1 6;desired 1 d 1 6 2",
        Fault::DesiredVersion,
    );
    check("desire 1 d 0 6;", "", Fault::DesiredUnsent);
    check("told 1 d 1 3", "told 1 d 1 2", Fault::ToldBack);
    check("told 1 d 1 2;told 1 d 1 3", "told 1 d 1 3;told 1 d 1 2", Fault::ToldBack);
    // C2D.
    check(";completed 1 d 1 1", ";completed 1 d 1 1;completed 1 d 1 1", Fault::EndedTwice);
    let reject_too = ";completed 1 d 1 1;reject 1 d 1 1;rejected 1 d 1 1";
    assert!(planted(";completed 1 d 1 1", reject_too).faults().contains(&(Fault::EndedTwice, 1)));
    let complete_too = "rejected 1 d 1 2;complete 1 d 1 2;completed 1 d 1 2";
    assert!(planted("rejected 1 d 1 2", complete_too).faults().contains(&(Fault::EndedTwice, 1)));
    check(
        "feedback 1 d 0 3 Expired",
        "feedback 1 d 0 3 Expired;feedback 1 d 0 3 Purged",
        Fault::EndedTwice,
    );
    check("rejected 1 d 1 2", "rejected 1 d 1 2;received 1 d 1 2", Fault::HandedOutAfterEnd);
    check(
        "c2d 1 d 0 3 negative",
        "c2d 1 d 0 3 negative;c2d 1 d 0 4 none;accepted 1 d 0 4",
        Fault::C2dLost,
    );
    check("accepted 1 d 0 3", "accepted 1 d 0 3;accepted 1 d 0 4", Fault::AcceptedUnsent);
    check("called 1 d 1 9", "called 1 d 1 9;received 1 d 1 4", Fault::ReceivedUnsent);
    check("received 1 d 1 2;", "", Fault::SettledUnreceived);
    // Feedback.
    check(
        "feedback 1 d 0 3 Expired",
        "feedback 1 d 0 3 Expired;feedback 1 d 0 4 Expired",
        Fault::FeedbackUnsent,
    );
    check("feedback 1 d 0 1 Success;", "", Fault::FeedbackMissing);
    check("feedback 1 d 0 2 Rejected;", "", Fault::FeedbackMissing);
    check("feedback 1 d 0 2 Rejected", "feedback 1 d 0 2 Expired", Fault::FeedbackWrong);
    check("feedback 1 d 0 1 Success", "feedback 1 d 0 1 Rejected", Fault::FeedbackWrong);
    check("feedback 1 d 0 3 Expired", "feedback 1 d 0 3 Rejected", Fault::FeedbackWrong);
    check("c2d 1 d 0 3 negative", "c2d 1 d 0 3 positive", Fault::FeedbackUnasked);
    check("c2d 1 d 0 1 full", "c2d 1 d 0 1 negative", Fault::FeedbackUnasked);
    // Methods.
    check("called 1 d 1 9;", "", Fault::CallLost);
    check("answer 1 d 0 9 200", "answer 1 d 0 9 200;answer 1 d 0 9 200", Fault::AnsweredTwice);
    check("call 1 d 0 9;", "", Fault::AnsweredUncalled);
    check("called 1 d 1 9", "called 1 d 1 9;called 1 d 1 10", Fault::RanUncalled);
}

#[test]
fn duplicates_are_counted_and_are_no_fault() {
    #[track_caller]
    fn check(from: &str, to: &str, topic: Topic) {
        let Checked { mut verdict, .. } = planted(from, to).check(ROOM).expect("a history");
        assert!(verdict.is_clean(), "{to}");
        assert_eq!(verdict.count(topic).duplicates, 1, "{to}");
        assert_eq!(verdict.total(), Count { duplicates: 1, ..verdict.total() }, "{to}");
    }
    check("logged 1 d 2 1 0 15", "logged 1 d 2 1 0 15;logged 1 d 1 2 0 16", Topic::Telemetry);
    check("1 d 0 3 Expired", "1 d 0 3 Expired;feedback 1 d 0 3 Expired", Topic::Feedback);
    check("received 1 d 1 2", "received 1 d 1 2;received 1 d 1 2", Topic::C2d);
    check("called 1 d 1 9", "called 1 d 1 9;called 1 d 1 9", Topic::Methods);
}

#[test]
fn a_log_may_be_read_again() {
    // By the same reader, which went back, and by another one.
    let [worker, back_end, log] = good();
    let again = [log.clone(), log[1..].to_vec()].concat();
    for logs in [vec![again], vec![log[..2].to_vec(), log[1..].to_vec(), log]] {
        let files = [vec![worker.clone(), back_end.clone()], logs].concat();
        let Checked { verdict, .. } = Run::of(&files, true).check(ROOM).expect("a history");
        assert!(verdict.is_clean());
        assert_eq!(verdict.total().duplicates, 0);
    }
}

#[test]
fn what_is_open_is_lost_only_if_the_run_waited_for_it() {
    let [worker, mut back_end, log] = good();
    back_end.extend(["c2d 1 d 0 4 none", "accepted 1 d 0 4", "c2d 1 d 0 5 full"]);
    back_end.retain(|line| !line.starts_with("feedback 1 d 0 1"));
    let files = [worker, back_end, log];
    let Checked { mut verdict, .. } = Run::of(&files, false).check(ROOM).expect("a history");
    assert!(verdict.is_clean());
    assert_eq!(verdict.count(Topic::C2d).open, 1, "5 was not accepted");
    let want = [(Fault::C2dLost, 1), (Fault::FeedbackMissing, 1)];
    assert_eq!(Run::of(&files, true).faults(), want);
    // It is said by who sends messages.
    let state = |said: [&str; 3]| {
        let whole = |(lines, said): (&Vec<&str>, &str)| {
            format!("dunlin-history 1 w 1\n{}\nend 1 {} {said}\n", lines.join("\n"), lines.len())
        };
        Run::raw(&files.iter().zip(said).map(whole).collect::<Vec<_>>()).faults()
    };
    assert_eq!(state(["open", "drained", "open"]), want);
    assert_eq!(state(["drained", "open", "drained"]), []);
}

#[test]
fn a_killed_worker_leaves_a_line_cut() {
    let [worker, back_end, log] = good().map(|lines| lines.join("\n"));
    // What other files say of the end of the run, this one does not have.
    let kept = worker.find("called").expect("it is there");
    let cut = format!("dunlin-history 1 w 1\n{}", &worker[..kept + 9]);
    let whole = |text: &str| {
        format!("dunlin-history 1 w 1\n{text}\nend 1 {} drained\n", text.lines().count())
    };
    let with_nul = format!("{cut}\0\0\0");
    for cut in [cut, with_nul] {
        let run = Run::raw(&[cut, whole(&back_end), whole(&log)]);
        let Checked { verdict, ends, .. } = run.check(ROOM).expect("a history");
        assert!(verdict.is_clean(), "{:?}", verdict.faults().collect::<Vec<_>>());
        assert_eq!((ends.cut, ends.drained, ends.lines), (1, false, 38));
    }
    let only_header = Run::raw(&["dunlin-history 1 w 1\n"]).check(ROOM).expect("a history");
    assert_eq!(only_header.ends, files::Ends { lines: 0, cut: 1, drained: false });
    assert!(only_header.verdict.is_clean());
}

#[test]
fn what_is_no_history_is_refused_by_file_and_line() {
    #[track_caller]
    fn check(text: &[u8], want: &str) {
        let run = Run::raw(&[text]);
        let error = run.check(ROOM).err().expect("refused");
        let path = run.paths[0].display();
        assert_eq!(format!("{error:#}"), want.replace("FILE", &path.to_string()));
    }
    let wrong = "FILE is no history: it begins with";
    check(b"", &format!("{wrong} \"\" instead of `dunlin-history 1`"));
    check(b"{\"a\":1}\n", &format!("{wrong} \"{{\\\"a\\\":1}}\" instead of `dunlin-history 1`"));
    check(
        b"dunlin-history 12 w 1\n",
        &format!("{wrong} \"dunlin-history 12 w 1\" instead of `dunlin-history 1`"),
    );
    let head = "dunlin-history 1 w 1\nsend 1 d 1 1\n";
    let with = |line: &str| [head, line].concat().into_bytes();
    check(&with("hello\n"), "FILE:3: the time is missing");
    check(&with("hello 1 d 1 1\n"), "FILE:3: no line begins with \"hello\"");
    check(&with("ack 1 d\n"), "FILE:3: the epoch is missing");
    check(&with("\n"), "FILE:3: the kind is missing");
    check(
        &[head.as_bytes(), b"\xff\n"].concat(),
        "FILE:3: no text: invalid utf-8 sequence of 1 bytes from index 0",
    );
    check(&with("end 1 2 open\n"), "FILE:3: there should be 2 lines before the end, there are 1");
    check(&with("end 1 x open\n"), "FILE:3: no number of lines");
    check(&with("end 1 1 closed\n"), "FILE:3: an end is drained or open");
    check(&with("end 1 1 open\nack 1 d 1 1\n"), "FILE:4: behind the end of the history");
    let run = Run::raw(&[""; 0]);
    let missing = [run.folder.path().join("none")];
    let bounds = Bounds { memory: ROOM, folder: run.folder.path().to_owned() };
    let error = parts::check(&missing, &bounds).err().expect("refused");
    assert!(format!("{error:#}").contains("cannot read the history"), "{error:#}");
}

/// A line that was made up: by which device, on which side.
type Made = (usize, Side, String);

fn random_run(random: &mut Rng) -> Vec<Made> {
    let devices = random.usize(1..6);
    let mut world = World::new(random.fork());
    let mut lives: Vec<_> = (0..devices).map(|n| Life::new(format!("d{n}"), random)).collect();
    let mut made = Vec::new();
    for _ in 0..random.usize(1..150) {
        let number = random.usize(..devices);
        lives[number].step(&mut world, &mut |side, line| {
            let mut text = Vec::new();
            line.write(&mut text);
            let text = String::from_utf8(text).expect("text");
            made.push((number, side, text.trim_end().to_owned()));
        });
    }
    made
}

/// Over several files, the lines of each writer in one of them and in their order. A device moves to
/// another worker after its second connection.
fn interleave(made: &[Made], random: &mut Rng) -> Run {
    let mut files = vec![Vec::new(); random.usize(1..5)];
    let mut writers = BTreeMap::<_, VecDeque<&str>>::new();
    for (device, side, text) in made {
        let epoch = Line::parse(text).expect("a line").epoch;
        let moved = *side == Side::Device && epoch > 2 && files.len() > 1;
        writers.entry((*device, *side, moved)).or_default().push_back(text);
    }
    let homes: Vec<_> = (0..30).map(|_| random.usize(..files.len())).collect();
    let mut writers: Vec<_> = writers
        .into_iter()
        .map(|((device, side, moved), lines)| {
            let home = homes[device * 3 + side as usize] + usize::from(moved);
            (home % files.len(), lines)
        })
        .collect();
    while !writers.is_empty() {
        let at = random.usize(..writers.len());
        let (file, lines) = &mut writers[at];
        match lines.pop_front() {
            Some(line) => files[*file].push(line),
            None => {
                writers.swap_remove(at);
            }
        }
    }
    Run::of(&files, true)
}

/// How many lines say the same as this one, but for when and where.
fn alike(lines: &[Line<'_>], line: &Line<'_>, word: &str) -> usize {
    let by_id = matches!(line.kind, Kind::C2d { .. } | Kind::Desire | Kind::Call);
    let alike = |other: &&Line<'_>| {
        other.sequence == line.sequence
            && (by_id || other.epoch == line.epoch)
            && other.device == line.device
            && other.kind.word() == word
    };
    lines.iter().filter(alike).count()
}

/// What must be found when this line is not there; `None`: perhaps nothing.
fn needed(lines: &[Line<'_>], line: &Line<'_>) -> Option<Fault> {
    let there = |word| alike(lines, line, word) > 0;
    let (answer, fault) = match line.kind {
        Kind::Send => ("ack", Fault::AckedUnsent),
        Kind::Logged(_) => ("ack", Fault::Lost),
        Kind::Report => ("reported", Fault::ReportUnsent),
        Kind::Desire => ("desired", Fault::DesiredUnsent),
        Kind::C2d { .. } => ("accepted", Fault::AcceptedUnsent),
        Kind::Call => ("answer", Fault::AnsweredUncalled),
        _ => return None,
    };
    (there(answer) && alike(lines, line, line.kind.word()) == 1).then_some(fault)
}

/// Where one of these lines is, if there is any.
fn any(lines: &[Line<'_>], word: &str, random: &mut Rng) -> Option<usize> {
    let all: Vec<_> = (0..lines.len()).filter(|at| lines[*at].kind.word() == word).collect();
    random.choice(all)
}

fn parsed(made: &[Made]) -> Vec<Line<'_>> {
    made.iter().map(|(.., text)| Line::parse(text).expect("a line")).collect()
}

#[test]
fn a_right_history_passes_in_any_order_and_parts() {
    let seed = fastrand::u64(..);
    let mut random = Rng::with_seed(seed);
    for round in 0..60 {
        let made = random_run(&mut random);
        let note = format!("seed {seed}, round {round}");
        let run = interleave(&made, &mut random);
        let (clean, text) = run.output();
        assert!(clean, "{note}: {text}");
        let whole = run.check(ROOM).expect("a history");
        let parts = run.check(3_000).expect("a history");
        assert_eq!(whole.verdict.topics(), parts.verdict.topics(), "{note}");
        assert_eq!((whole.parts, whole.ends), (1, parts.ends), "{note}");
    }
}

#[test]
fn a_line_that_is_missing_is_missed() {
    let seed = fastrand::u64(..);
    let mut random = Rng::with_seed(seed);
    let mut kinds = BTreeSet::new();
    while kinds.len() < 6 {
        let made = random_run(&mut random);
        let lines = parsed(&made);
        for word in ["send", "logged", "report", "desire", "c2d", "call"] {
            let Some(at) = any(&lines, word, &mut random) else { continue };
            let Some(want) = needed(&lines, &lines[at]) else { continue };
            let mut left = made.clone();
            let line = left.remove(at);
            let faults = interleave(&left, &mut random).faults();
            let found = faults.iter().any(|(fault, _)| *fault == want);
            assert!(found, "seed {seed}: without {line:?}: {faults:?}");
            kinds.insert(want);
        }
    }
}

#[test]
fn lines_that_change_places_are_seen() {
    let seed = fastrand::u64(..);
    let mut random = Rng::with_seed(seed);
    let mut kinds = BTreeSet::new();
    while kinds.len() < 3 {
        let made = random_run(&mut random);
        let lines = parsed(&made);
        let faults = [Fault::Disordered, Fault::ReportVersion, Fault::ToldBack];
        for (word, want) in ["logged", "reported", "told"].into_iter().zip(faults) {
            let Some(at) = any(&lines, word, &mut random) else { continue };
            let line = &lines[at];
            // The next one of this connection; what is there twice has no one place.
            let next = |other: &Line<'_>| {
                other.device == line.device
                    && other.epoch == line.epoch
                    && other.kind.word() == word
            };
            let Some(next) = lines[at + 1..].iter().position(next) else { continue };
            let other = at + 1 + next;
            if alike(&lines, line, word) > 1 || alike(&lines, &lines[other], word) > 1 {
                continue;
            }
            let mut made = made.clone();
            let text = std::mem::take(&mut made[at].2);
            made[at].2 = std::mem::replace(&mut made[other].2, text);
            let faults = interleave(&made, &mut random).faults();
            let found = faults.iter().any(|(fault, _)| *fault == want);
            assert!(found, "seed {seed}: {:?} and {:?}: {faults:?}", made[at], made[other]);
            kinds.insert(want);
        }
    }
}

#[test]
fn what_was_made_up_for_a_self_test_passes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let histories = self_test::write(folder.path(), 20_000)?;
    let bounds = Bounds { memory: 20_000, folder: folder.path().to_owned() };
    let mut out = Vec::new();
    assert!(check(&histories, &bounds, &mut out)?);
    let text = String::from_utf8(out)?;
    assert!(text.contains("lines=200") && !text.contains("parts=1\n"), "{text}");
    Ok(())
}

#[test]
fn only_the_first_cases_are_named() {
    let [worker, back_end, _] = good();
    let mut log = vec!["logged 1 d 2 1 0 15".to_owned()];
    log.extend((0..10_000).map(|n| format!("logged 1 e 1 {n} 1 {n}")));
    let files = [worker, back_end].map(|lines| lines.into_iter().map(str::to_owned).collect());
    let run = Run::of(&[files.as_slice(), &[log]].concat(), true);
    let (_, text) = run.output();
    assert!(
        text.contains("3 x acknowledged, and not in the log\n  d, connection 1, number 1\n"),
        "{text}"
    );
    assert!(
        text.contains("10000 x in the log, and never sent\n  e, connection 1, number 0\n"),
        "{text}"
    );
    assert!(text.contains("0.history:2") || text.contains("0.history:6: ack 1 d 1 1"), "{text}");
    assert_eq!(text.matches("  e, connection 1").count(), 3, "{text}");
}
