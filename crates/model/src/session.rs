//! What a device's session keeps from one connection to the next.

use std::fmt;

/// One of the topic filters the hub knows, as a place in [`Subscriptions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// C2D messages (`devices/{d}/messages/devicebound/#`).
    Commands,
    /// Messages to a module's inputs (`devices/{d}/modules/{m}/inputs/#`).
    Inputs,
    /// Everything to a module (`devices/{d}/modules/{m}/#`).
    Module,
    /// Direct methods (`$iothub/methods/POST/#`).
    Methods,
    /// Answers to twin requests (`$iothub/twin/res/#`).
    TwinAnswers,
    /// Changes of desired properties (`$iothub/twin/PATCH/properties/desired/#`).
    Desired,
}

/// The highest quality of service the hub grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QoS {
    AtMostOnce,
    AtLeastOnce,
}

/// What an identity is subscribed to, and with which QoS: two bits a topic.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Subscriptions(u16);

impl Subscriptions {
    pub const NONE: Self = Self(0);

    /// The stored form. Bits of a later version are dropped.
    pub fn from_bits(bits: u32) -> Self {
        let known = u16::try_from(bits & 0x0fff).unwrap_or_default();
        // A QoS without its subscription means nothing.
        Self(known & (0x0555 | (known & 0x0555) << 1))
    }

    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn get(self, topic: Topic) -> Option<QoS> {
        match self.0 >> shift(topic) & 0b11 {
            0b01 => Some(QoS::AtMostOnce),
            0b11 => Some(QoS::AtLeastOnce),
            _ => None,
        }
    }

    /// A second subscription takes the place of the first [MQTT-3.8.4-3].
    #[must_use]
    pub fn with(self, topic: Topic, qos: QoS) -> Self {
        let bits = match qos {
            QoS::AtMostOnce => 0b01,
            QoS::AtLeastOnce => 0b11,
        };
        Self(self.without(topic).0 | bits << shift(topic))
    }

    #[must_use]
    pub fn without(self, topic: Topic) -> Self {
        Self(self.0 & !(0b11 << shift(topic)))
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscriptions({:#05x})", self.0)
    }
}

fn shift(topic: Topic) -> u16 {
    2 * topic as u16
}

/// What outlives a connection with CleanSession=0.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Session {
    pub subscriptions: Subscriptions,
    /// The Plug and Play model the last connection spoke of.
    pub model_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPICS: [Topic; 6] = [
        Topic::Commands,
        Topic::Inputs,
        Topic::Module,
        Topic::Methods,
        Topic::TwinAnswers,
        Topic::Desired,
    ];

    #[test]
    fn each_topic_has_a_place_of_its_own() {
        for topic in TOPICS {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                let one = Subscriptions::NONE.with(topic, QoS::AtLeastOnce).with(topic, qos);
                assert_eq!(one.get(topic), Some(qos));
                let others = TOPICS.into_iter().filter(|other| *other != topic);
                assert!(others.clone().all(|other| one.get(other).is_none()), "{topic:?}");
                assert_eq!(Subscriptions::from_bits(one.bits()), one);
                assert_eq!(one.without(topic), Subscriptions::NONE);
                let all = others.fold(one, |all, other| all.with(other, QoS::AtMostOnce));
                assert_eq!(all.get(topic), Some(qos));
            }
        }
    }

    #[test]
    fn strange_bits_are_no_subscription() {
        assert_eq!(Subscriptions::from_bits(0xffff_f000), Subscriptions::NONE);
        assert_eq!(Subscriptions::from_bits(0b10), Subscriptions::NONE);
        assert_eq!(Subscriptions::from_bits(0b0110).bits(), 0b0100);
    }
}
