//! Naming a topic: by its handle, which costs nothing, or by its name, which is looked up.

use std::ops::Deref;
use std::sync::Arc;

use crate::broker::{Inner, Topic, TopicState};
use crate::error::{Error, Result};

/// A topic's handle or its name: whatever takes one also takes a `&Topic`, `&str` or `&String`.
#[derive(Clone, Copy, Debug)]
pub struct TopicRef<'a>(Named<'a>);

#[derive(Clone, Copy, Debug)]
enum Named<'a> {
    Handle(&'a Topic),
    Name(&'a str),
}

impl<'a> From<&'a Topic> for TopicRef<'a> {
    fn from(topic: &'a Topic) -> Self {
        Self(Named::Handle(topic))
    }
}

impl<'a> From<&'a str> for TopicRef<'a> {
    fn from(name: &'a str) -> Self {
        Self(Named::Name(name))
    }
}

impl<'a> From<&'a String> for TopicRef<'a> {
    fn from(name: &'a String) -> Self {
        Self(Named::Name(name))
    }
}

/// A topic found, borrowed where that is possible.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Borrowed(&'a Arc<TopicState>),
    Owned(Arc<TopicState>),
}

impl Deref for Found<'_> {
    type Target = Arc<TopicState>;

    #[inline]
    fn deref(&self) -> &Arc<TopicState> {
        match self {
            Found::Borrowed(state) => state,
            Found::Owned(state) => state,
        }
    }
}

impl<'a> TopicRef<'a> {
    #[inline]
    pub(crate) fn find(self, broker: &Arc<Inner>) -> Result<Found<'a>> {
        broker.check_fork()?;
        let unknown = |name: &str| Error::UnknownTopic { name: Arc::from(name) };
        match self.0 {
            Named::Handle(topic) if Arc::ptr_eq(&topic.broker, broker) => {
                Ok(Found::Borrowed(&topic.state))
            }
            // Another broker's handle: what it names is not here.
            Named::Handle(topic) => Err(unknown(topic.name())),
            Named::Name(name) => {
                broker.find_topic(name).map(Found::Owned).ok_or_else(|| unknown(name))
            }
        }
    }
}
