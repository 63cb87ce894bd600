//! A scenario in words: a line for each group of devices and each back end.

use super::{Auth, Backend, Connect, Does, Group, Protocol, Rate, Scenario, Size, Stream, Tls};

impl Scenario {
    pub fn describe(&self) -> Vec<String> {
        let groups = self.groups.iter().map(Group::describe);
        groups.chain(self.backends.iter().map(Backend::describe)).collect()
    }
}

impl Group {
    fn describe(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Mqtt => "MQTT",
            Protocol::MqttWs => "MQTT over WebSocket",
            Protocol::Https if self.connection_per_request => "HTTPS, a connection a request",
            Protocol::Https => "HTTPS",
        };
        let mut words = vec![format!("{} × {}: {protocol}", self.count, self.prefix)];
        if self.tls == Tls::Resume {
            words.push("TLS resumed".into());
        }
        if self.auth == Auth::X509 {
            words.push("X.509".into());
        }
        words.push(match self.connect {
            Connect::Storm => "all connect at once".into(),
            Connect::AtOnce(devices) => format!("{devices} connect at a time"),
            Connect::PerSecond(rate) => format!("{rate} connect a second"),
        });
        for (name, stream) in [("telemetry", &self.telemetry), ("reports", &self.reports)] {
            words.extend(stream.describe().map(|what| format!("{name} {what}")));
        }
        if let Some(reconnect) = self.reconnect {
            let how = if reconnect.jitter { "about every" } else { "all together every" };
            words.push(format!("connect anew {how} {} s", reconnect.every));
        }
        if self.idle {
            words.push("idle, without TLS state".into());
        }
        if let Some(misbehave) = &self.misbehave {
            words.push(format!("{} % misbehave", misbehave.share * 100.0));
        }
        words.join(", ")
    }
}

impl Backend {
    fn describe(&self) -> String {
        let to = self.devices.as_ref().map(|prefix| format!(" to {prefix}")).unwrap_or_default();
        let parallel =
            self.parallel.map(|count| format!(", {count} at a time")).unwrap_or_default();
        let what = match self.does {
            Does::Methods => "direct methods",
            Does::C2d => "C2D messages",
            Does::Desired => "desired properties",
            // Neither goes to devices, nor has a size.
            Does::Queries => return format!("back ends: queries {}{parallel}", self.rate),
            Does::Feedback => return format!("back ends: read feedback {}{parallel}", self.rate),
        };
        format!("back ends: {what}{to} {}{parallel}, {} B", self.rate, self.size)
    }
}

impl Stream {
    fn describe(&self) -> Option<String> {
        let batch =
            if self.batch > 1 { format!(", {} a request", self.batch) } else { String::new() };
        let window =
            if self.window > 1 { format!(", window {}", self.window) } else { String::new() };
        Some(format!("{}, {} B{window}{batch}", self.rate?, self.size))
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => out.write_str("as fast as they are answered"),
            Self::Total(rate) => write!(out, "{rate}/s"),
            Self::PerDevice(rate) => write!(out, "{rate}/s each"),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => write!(out, "{size}"),
            Self::Uniform { from, to } => write!(out, "{from} to {to}"),
            Self::Weighted { weights } => {
                let sizes: Vec<_> = weights.iter().map(|(size, _)| size.to_string()).collect();
                out.write_str(&sizes.join(" or "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reconnect;
    use super::*;

    #[test]
    fn a_scenario_is_told_in_words() {
        let telemetry = Stream { rate: Some(Rate::PerDevice(0.5)), ..Stream::default() };
        let reconnect = Some(Reconnect { every: 60.0, jitter: false });
        let group = Group { telemetry, reconnect, connect: Connect::Storm, ..Group::default() };
        let backend = Backend::of(Does::Methods, Rate::Total(5.0), None, Size::Fixed(64));
        let feedback = Backend::of(Does::Feedback, Rate::Max, Some(2), Size::Fixed(64));
        let c2d = Backend { does: Does::C2d, devices: Some("a-".into()), ..backend.clone() };
        let (groups, backends) = (vec![group], vec![backend, c2d, feedback]);
        let lines = Scenario { groups, backends, ..Scenario::default() }.describe();
        assert_eq!(
            lines,
            [
                "100 × load-: MQTT, all connect at once, telemetry 0.5/s each, 256 B, \
             connect anew all together every 60 s",
                "back ends: direct methods 5/s, 64 B",
                "back ends: C2D messages to a- 5/s, 64 B",
                "back ends: read feedback as fast as they are answered, 2 at a time",
            ]
        );
    }
}
