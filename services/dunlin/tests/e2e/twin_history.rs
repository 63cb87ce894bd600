//! Is what clients saw of one twin linearizable? That is: can all calls be put one after the other,
//! each between its start and its end, so that the model answers all of them the same?
//!
//! Every write has a version of its own, so the order of the writes is known, and there is little
//! to search.

use serde_json::{Value, json};

use crate::twin_model::{Answer, Call, Event, State, etag_of, merge, with_version};

/// What is wrong with a history of all that was ever asked of a twin, if anything is.
pub fn check(history: &[Event]) -> Result<(), String> {
    let (writes, states) = replay(history)?;
    told(history, &states)?;
    in_time(history, &writes, &states)
}

/// Puts the writes in the order of their versions: what was written, and the twin's states, of
/// which the first is the new twin's and then one follows each write.
fn replay(history: &[Event]) -> Result<(Vec<&Event>, Vec<State>), String> {
    let (mut updates, mut reports) = (Vec::new(), Vec::new());
    for event in history.iter().filter(|event| event.wrote()) {
        match &event.answer {
            Answer::Twin(twin) => updates.push((twin["version"].as_u64(), event)),
            Answer::Version(version) => reports.push((Some(*version), event)),
            answer => return Err(format!("{:?} was answered {answer:?}", event.call)),
        }
    }
    updates.sort_by_key(|(version, _)| *version);
    reports.sort_by_key(|(version, _)| *version);
    // A report's answer does not say the version of the whole twin: it has one that no update has.
    let (mut updates, mut reports) = (updates.into_iter().peekable(), reports.into_iter());
    let (mut writes, mut states) = (Vec::new(), vec![State::new()]);
    loop {
        let state = states.last().expect("the new twin");
        let next = state.version + 1;
        let write = match updates.next_if(|(version, _)| *version <= Some(next)) {
            Some((_, write)) => write,
            None => match reports.next() {
                Some((_, write)) => write,
                None if updates.peek().is_none() => return Ok((writes, states)),
                None => return Err(format!("nobody was given version {next}")),
            },
        };
        let Some(state) = state.after(&write.call) else {
            return Err(format!("its condition does not hold in {state:?}: {write:?}"));
        };
        if !state.explains(write) {
            return Err(format!("it ought to leave {state:?}: {write:?}"));
        }
        writes.push(write);
        states.push(state);
    }
}

/// The device is told of each version once and in order, and what it makes of it is desired.
fn told(history: &[Event], states: &[State]) -> Result<(), String> {
    let mut patches: Vec<_> =
        history.iter().filter(|event| matches!(event.call, Call::Told)).collect();
    patches.sort_by_key(|event| event.start);
    let mut desired = with_version(&json!({}), 1);
    let mut patches = patches.into_iter();
    for pair in states.windows(2) {
        let version = pair[1].desired_version;
        if version == pair[0].desired_version {
            continue;
        }
        let Some(Event { answer: Answer::Patch(patch), .. }) = patches.next() else {
            return Err(format!("the device was not told of version {version}"));
        };
        merge(&mut desired, patch);
        if desired != with_version(&pair[1].desired, version) {
            return Err(format!("told {patch}, the device has {desired} for {:?}", pair[1]));
        }
    }
    patches.next().map_or(Ok(()), |more| Err(format!("the device was told of nothing: {more:?}")))
}

/// A call sees at least what every call saw or did that ended before it began.
fn in_time(history: &[Event], writes: &[&Event], states: &[State]) -> Result<(), String> {
    let mut calls: Vec<_> = history.iter().collect();
    calls.sort_by_key(|event| event.start);
    // When it ended, and the state that it saw or made. The earliest that will do leaves the most
    // room to all others.
    let mut placed: Vec<(u64, usize)> = Vec::new();
    for event in calls {
        let before = placed.iter().filter(|(end, _)| *end < event.start);
        let least = before.map(|(_, at)| *at).max().unwrap_or(0);
        let at = match writes.iter().position(|write| std::ptr::eq(*write, event)) {
            Some(write) => Some(write + 1).filter(|at| *at > least),
            None => (least..states.len()).find(|at| states[*at].explains(event)),
        };
        let Some(at) = at else {
            return Err(format!("it does not fit behind {:?}: {event:?}", states[least]));
        };
        placed.push((event.end, at));
    }
    Ok(())
}

/// A good history, one call after the other: `n` starts at tick `10 * n` and ends five later.
fn good() -> Vec<Event> {
    let write = |replace, tags, desired, if_match: Option<u64>| {
        let if_match = if_match.map(etag_of);
        Call::Write { replace, tags, desired, if_match }
    };
    let report = |patch, if_version| Call::Report { patch, if_version };
    let mut history: Vec<Event> = Vec::new();
    let mut state = State::new();
    for (call, patch) in [
        (write(false, json!({"t": 1}), json!({"a": 1, "b": {"c": 1}}), Some(1)), None),
        (report(json!({"r": 1, "s": {"u": 1}}), Some(1)), None),
        (Call::Get, None),
        (write(false, Value::Null, json!({"b": {"c": null, "d": 2}}), None), None),
        (write(false, Value::Null, json!({"x": 1}), Some(1)), None),
        (Call::Read, None),
        (write(true, Value::Null, json!({"a": 2}), None), Some(json!({"a": 2, "b": null}))),
        (report(json!({"r": 2}), Some(1)), None),
        (report(json!({"s": null}), None), None),
        (write(false, json!({"t": 2}), Value::Null, None), None),
        (write(false, json!({}), Value::Null, Some(5)), None),
        (Call::Read, None),
        (Call::Get, None),
    ] {
        let start = 10 * u64::try_from(history.len()).expect("few");
        let after = state.after(&call);
        let answer = match (&call, &after) {
            (_, None) => Answer::Stale,
            (Call::Read, Some(state)) => Answer::Properties(state.properties()),
            (Call::Report { .. }, Some(state)) => Answer::Version(state.reported_version),
            (_, Some(state)) => Answer::Twin(state.twin()),
        };
        let after = after.unwrap_or(state.clone());
        if after.desired_version > state.desired_version
            && let Call::Write { desired, .. } = &call
        {
            let patch = with_version(&patch.unwrap_or(desired.clone()), after.desired_version);
            let (call, answer) = (Call::Told, Answer::Patch(patch));
            history.push(Event { call, answer, start: start + 6, end: start + 6 });
        }
        state = after;
        history.push(Event { call, answer, start, end: start + 5 });
    }
    history
}

/// A twin's answer with something else in it.
fn altered(event: &mut Event, alter: impl FnOnce(&mut Value)) {
    match &mut event.answer {
        Answer::Twin(value) | Answer::Properties(value) | Answer::Patch(value) => alter(value),
        answer => panic!("nothing to alter in {answer:?}"),
    }
}

fn condition(event: &mut Event, etag: u64) {
    match &mut event.call {
        Call::Write { if_match, .. } => *if_match = Some(etag_of(etag)),
        Call::Report { if_version, .. } => *if_version = Some(etag),
        call => panic!("{call:?} has no condition"),
    }
}

#[test]
fn each_fault_of_a_history_is_found() {
    check(&good()).expect("nothing is wrong");
    // Where what is in `good`; a notification comes before its write.
    const FIRST: usize = 1;
    const REPORT: usize = 2;
    const GET: usize = 3;
    const SECOND: usize = 5;
    const STALE: usize = 6;
    const READ: usize = 7;
    const TOLD: usize = 8;
    const PUT: usize = 9;
    const STALE_REPORT: usize = 10;
    const DELETION: usize = 11;
    const TAGS: usize = 12;
    const NOTHING: usize = 13;
    const LAST_READ: usize = 14;
    const LAST_GET: usize = 15;
    type Plant = fn(&mut Vec<Event>);
    let faults: Vec<(&str, &str, Plant)> = vec![
        ("a lost update", "ought to leave", |h| {
            altered(&mut h[SECOND], |twin| {
                twin["properties"]["desired"]["a"].take();
            });
        }),
        ("an update lost later", "does not fit", |h| {
            altered(&mut h[READ], |own| own["desired"]["b"] = json!({"c": 1}));
        }),
        ("a lost report", "ought to leave", |h| h[DELETION].answer = Answer::Version(2)),
        ("a lost deletion", "does not fit", |h| {
            altered(&mut h[LAST_READ], |own| own["reported"]["s"] = json!({"u": 1}));
        }),
        ("a version given twice", "ought to leave", |h| {
            altered(&mut h[TAGS], |twin| twin["version"] = 6.into());
        }),
        ("an ETag given twice", "ought to leave", |h| {
            altered(&mut h[SECOND], |twin| twin["etag"] = "AAAAAAAAAAI=".into());
        }),
        ("a version given to nobody", "nobody was given version 8", |h| {
            altered(&mut h[TAGS], |twin| twin["version"] = 9.into());
        }),
        ("a write of nobody", "ought to leave", |h| {
            h.remove(SECOND);
        }),
        ("a stale read", "does not fit", |h| h[LAST_GET].answer = h[GET].answer.clone()),
        ("a stale read of the device", "does not fit", |h| {
            h[LAST_READ].answer = h[READ].answer.clone();
        }),
        ("a read that is ahead", "does not fit", |h| h[GET].answer = h[LAST_GET].answer.clone()),
        ("a read of two states", "does not fit", |h| {
            altered(&mut h[LAST_GET], |twin| twin["tags"] = json!({"t": 1}));
        }),
        ("an old ETag that was taken", "condition does not hold", |h| condition(&mut h[PUT], 2)),
        ("an old version that was taken", "condition does not hold", |h| {
            condition(&mut h[DELETION], 1);
        }),
        ("an old ETag that was taken for nothing", "does not fit", |h| {
            condition(&mut h[NOTHING], 4);
        }),
        ("an ETag that was refused", "does not fit", |h| condition(&mut h[STALE], 3)),
        ("a version that was refused", "does not fit", |h| condition(&mut h[STALE_REPORT], 2)),
        ("writes against time", "does not fit", |h| {
            (h[FIRST].start, h[FIRST].end) = (160, 165);
        }),
        ("a report against time", "does not fit", |h| {
            (h[REPORT].start, h[REPORT].end) = (160, 165);
        }),
        ("a change that is not told", "was not told", |h| {
            h.remove(TOLD);
        }),
        ("a change that is told again", "of nothing", |h| h.push(h[TOLD].clone())),
        ("changes told in another order", "the device has", |h| {
            h[0].start = 200;
        }),
        ("a deletion that is not told", "the device has", |h| {
            altered(&mut h[TOLD], |patch| *patch = json!({"a": 2, "$version": 4}));
        }),
        ("a change told before it is stored", "does not fit", |h| {
            (h[TOLD].start, h[TOLD].end) = (61, 61);
        }),
    ];
    for (what, says, plant) in faults {
        let mut history = good();
        plant(&mut history);
        let fault = check(&history).expect_err(what);
        assert!(fault.contains(says), "{what}: {fault}");
    }
}

#[test]
fn calls_at_one_time_may_be_answered_in_either_order() {
    for (old, start) in [(true, 0), (false, 0), (false, 121)] {
        let mut history = good();
        if old {
            history[15].answer = history[3].answer.clone();
        }
        history[15].start = start;
        check(&history).expect("it may have been so");
    }
    // The one that sees more ends before the other begins.
    let mut history = good();
    (history[14].start, history[15].start) = (0, 160);
    (history[14].end, history[15].end) = (155, 170);
    history[15].answer = history[3].answer.clone();
    check(&history).expect_err("time runs backwards");
}
