//! What a scenario cannot be. Each error names the field.

use anyhow::{Context, Result, bail};

use super::{
    Backend, C2d, Connect, Does, Group, Misbehave, Protocol, Rate, Reconnect, Retry, Scenario,
    Size, Stream,
};

impl Scenario {
    pub fn check(&self) -> Result<()> {
        positive_or_zero("hold", self.hold)?;
        positive_or_zero("warm_up", self.warm_up)?;
        positive_or_zero("drain", self.drain)?;
        if self.groups.is_empty() {
            bail!("the scenario has no [[devices]]");
        }
        for (at, group) in self.groups.iter().enumerate() {
            group.check().with_context(|| format!("devices[{at}] ({})", group.prefix))?;
            if self.groups[..at].iter().any(|other| other.prefix == group.prefix) {
                bail!("devices[{at}].prefix: {:?} is that of another group", group.prefix);
            }
        }
        for (at, backend) in self.backends.iter().enumerate() {
            self.check_backend(backend).with_context(|| format!("backends[{at}]"))?;
        }
        Ok(())
    }

    fn check_backend(&self, backend: &Backend) -> Result<()> {
        if matches!(backend.rate, Rate::PerDevice(_)) {
            bail!("rate: a back end has none per device; take {{ total = N }}");
        }
        check_rate(backend.rate)?;
        check_size(&backend.size)?;
        if backend.parallel == Some(0) {
            bail!("parallel: at least 1");
        }
        let mut named = self.groups.iter().filter(|group| backend.serves(group)).peekable();
        if named.peek().is_none() {
            bail!("devices: no group has the prefix {:?}", backend.devices);
        }
        let hears = |group: &Group| match backend.does {
            Does::Queries | Does::Desired | Does::Feedback => true,
            Does::Methods => group.protocol != Protocol::Https && group.subscribe && !group.idle,
            Does::C2d if group.protocol == Protocol::Https => group.c2d.poll.is_some(),
            Does::C2d => group.subscribe && !group.idle,
        };
        match named.find(|group| !hears(group)) {
            Some(deaf) => bail!("does: the devices {:?} would never hear of it", deaf.prefix),
            None => Ok(()),
        }
    }
}

impl Group {
    fn check(&self) -> Result<()> {
        let https = self.protocol == Protocol::Https;
        if self.count == 0 {
            bail!("count: at least 1");
        }
        let id = |byte: u8| byte.is_ascii_alphanumeric() || b"-.%_*?!(),:=@$'".contains(&byte);
        if self.prefix.is_empty() || self.prefix.len() > 100 || !self.prefix.bytes().all(id) {
            bail!("prefix: {:?} cannot begin a device id", self.prefix);
        }
        for (name, stream) in [("telemetry", &self.telemetry), ("reports", &self.reports)] {
            stream.check().with_context(|| name.to_owned())?;
        }
        if https && (self.reports.rate.is_some() || self.idle || self.reconnect.is_some()) {
            bail!("protocol: over HTTPS there are no reports, no idle and no reconnect");
        }
        if https && self.telemetry.window != 1 {
            bail!("telemetry.window: over HTTPS a device waits for each answer");
        }
        if !https && (self.telemetry.batch != 1 || self.connection_per_request) {
            bail!("telemetry.batch and connection_per_request are for HTTPS");
        }
        if !https && self.c2d != C2d::default() {
            bail!("c2d: over MQTT a message can only be completed");
        }
        if self.idle && (self.telemetry.rate.is_some() || self.reports.rate.is_some()) {
            bail!("idle: such devices can send nothing");
        }
        if self.reports.rate.is_some() && !self.subscribe {
            bail!("reports: without subscribe nobody hears the answers");
        }
        match self.connect {
            Connect::AtOnce(0) => bail!("connect.at_once: at least 1"),
            Connect::PerSecond(rate) => positive("connect.per_second", rate)?,
            Connect::Storm | Connect::AtOnce(_) => {}
        }
        if let Some(Retry { first, most, give_up, .. }) = self.retry {
            positive("retry.first", first)?;
            positive("retry.most", most)?;
            positive("retry.give_up", give_up)?;
        }
        if let Some(Reconnect { every, .. }) = self.reconnect {
            positive("reconnect.every", every)?;
        }
        if let Some(poll) = self.c2d.poll {
            positive("c2d.poll", poll)?;
        }
        let ends = self.c2d.abandon + self.c2d.reject;
        if self.c2d.abandon < 0.0 || self.c2d.reject < 0.0 || ends.is_nan() || ends > 1.0 {
            bail!("c2d: abandon and reject are shares, 1 together at most");
        }
        positive_or_zero("methods.delay", self.methods.delay)?;
        if let Some(Misbehave { share, kinds }) = &self.misbehave {
            if !(0.0..=1.0).contains(share) || kinds.is_empty() {
                bail!("misbehave: a share between 0 and 1, and at least one of kinds");
            }
            if self.protocol != Protocol::Mqtt {
                bail!("misbehave: only devices over MQTT do");
            }
        }
        Ok(())
    }
}

impl Stream {
    fn check(&self) -> Result<()> {
        if let Some(rate) = self.rate {
            check_rate(rate)?;
        }
        if !(1..=1_000).contains(&self.window) {
            bail!("window: between 1 and 1000");
        }
        if !(1..=500).contains(&self.batch) {
            bail!("batch: between 1 and 500");
        }
        check_size(&self.size)
    }
}

fn check_rate(rate: Rate) -> Result<()> {
    match rate {
        Rate::Max => Ok(()),
        Rate::Total(rate) => positive("rate.total", rate),
        Rate::PerDevice(rate) => positive("rate.per_device", rate),
    }
}

fn check_size(size: &Size) -> Result<()> {
    match size {
        Size::Uniform { from, to } if from > to => bail!("size: from is more than to"),
        Size::Weighted { weights } if weights.iter().all(|(_, weight)| *weight == 0) => {
            bail!("size.weights: all weights are 0")
        }
        _ if size.largest() > 1 << 20 => bail!("size: 1 MiB at most"),
        _ => Ok(()),
    }
}

fn positive(name: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() { Ok(()) } else { bail!("{name}: {value} is not above 0") }
}

fn positive_or_zero(name: &str, value: f64) -> Result<()> {
    if value == 0.0 { Ok(()) } else { positive(name, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole chain of why, for a person.
    fn error(text: &str) -> String {
        let checked = Scenario::parse(text).and_then(|scenario| scenario.check());
        format!("{:#}", checked.expect_err(text))
    }

    #[test]
    fn what_cannot_be_names_its_field() {
        for (text, field) in [
            ("", "[[devices]]"),
            ("hold = -1\n[[devices]]", "hold"),
            ("holds = 1", "holds"),
            ("drain = -1\n[[devices]]", "drain"),
            ("[[devices]]\ncount = 0", "count"),
            ("[[devices]]\ncount = \"x\"", "count"),
            ("[[devices]]\nprotocol = \"amqp\"", "amqp"),
            ("[[devices]]\nprefix = \"a b\"", "prefix"),
            ("[[devices]]\n[[devices]]", "devices[1].prefix"),
            ("[[devices]]\nconnect = { per_second = 0 }", "connect.per_second"),
            ("[[devices]]\ntelemetry = { rate = { total = 0 } }", "rate.total"),
            ("[[devices]]\ntelemetry = { rate = 5 }", "rate"),
            ("[[devices]]\ntelemetry = { size = { from = 9, to = 1 } }", "size"),
            ("[[devices]]\ntelemetry = { size = \"big\" }", "`size` is a number"),
            ("[[devices]]\ntelemetry = { size = { weights = [[5, 0]] } }", "size.weights"),
            ("[[devices]]\ntelemetry = { window = 0 }", "window"),
            ("[[devices]]\ntelemetry = { batch = 5 }", "batch"),
            ("[[devices]]\nprotocol = \"https\"\nidle = true", "protocol"),
            ("[[devices]]\nidle = true\ntelemetry = { rate = \"max\" }", "idle"),
            ("[[devices]]\nsubscribe = false\nreports = { rate = \"max\" }", "reports"),
            ("[[devices]]\nretry = { first = 0 }", "retry.first"),
            ("[[devices]]\nretry = { frist = 1 }", "frist"),
            ("[[devices]]\nreconnect = { every = 0 }", "reconnect.every"),
            ("[[devices]]\nc2d = { poll = 1 }", "c2d"),
            ("[[devices]]\nprotocol = \"https\"\nc2d = { abandon = 0.6, reject = 0.6 }", "c2d"),
            ("[[devices]]\nmisbehave = { share = 2, kinds = [\"garbage\"] }", "misbehave"),
            ("[[devices]]\nmisbehave = { share = 0.5, kinds = [\"rude\"] }", "rude"),
            ("[[devices]]\n[[backends]]\ndoes = \"c2d\"", "rate"),
            ("[[devices]]\n[[backends]]\ndoes = \"c2d\"\nrate = { per_device = 1 }", "backends[0]"),
            (
                "[[devices]]\n[[backends]]\ndoes = \"c2d\"\nrate = \"max\"\ndevices = \"x\"",
                "devices",
            ),
            ("[[devices]]\nidle = true\n[[backends]]\ndoes = \"methods\"\nrate = \"max\"", "does"),
        ] {
            let error = error(text);
            assert!(error.contains(field), "{text}: {error}");
        }
    }

    #[test]
    fn a_full_scenario_is_sound() -> Result<()> {
        let text = r#"
            name = "all of it"
            warm_up = 5
            hold = 60.5
            burst = 1
            drain = 90
            [[devices]]
            prefix = "a-"
            count = 1000
            tls = "resume"
            connect = "storm"
            retry = { first = 0.5, most = 10, jitter = false, give_up = 60 }
            reconnect = { every = 300 }
            telemetry = { rate = { per_device = 0.1 }, size = { weights = [[64, 3], [1024, 1]] }, window = 5 }
            reports = { rate = { total = 10 }, size = { from = 10, to = 100 } }
            methods = { delay = 0.2 }
            misbehave = { share = 0.02, kinds = ["garbage", "slow-loris", "oversize", "no-acks", "bad-token", "half-open"] }
            [[devices]]
            prefix = "b-"
            protocol = "https"
            auth = "x509"
            connect = { per_second = 100 }
            telemetry = { rate = { total = 5 }, batch = 10 }
            c2d = { poll = 5, abandon = 0.1, reject = 0.1 }
            [[backends]]
            does = "methods"
            rate = { total = 5 }
            devices = "a-"
            [[backends]]
            does = "c2d"
            rate = "max"
            parallel = 4
            ack = "full"
            [[backends]]
            does = "queries"
            rate = { total = 1 }
            query = "SELECT deviceId FROM devices"
        "#;
        let scenario = Scenario::parse(text)?;
        scenario.check()?;
        assert_eq!((scenario.groups.len(), scenario.backends.len()), (2, 3));
        let bad = (0..1000).filter(|n| scenario.groups[0].misbehaviour(*n).is_some()).count();
        assert_eq!(bad, 20);
        Ok(())
    }
}
