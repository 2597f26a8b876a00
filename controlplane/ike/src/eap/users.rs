//! The users of a server and their passwords.

use std::collections::BTreeMap;
use std::fmt;

use crate::secret::Secret;

/// Names and passwords, in UTF-8.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Users(BTreeMap<String, Secret>);

impl Users {
    /// A user, by the name that stands here, and the password; a domain before the name (`EXAMPLE\carol`) is ignored where the
    /// whole is not known.
    pub(crate) fn find(&self, name: &str) -> Option<(&str, &Secret)> {
        let plain = || name.rsplit_once('\\').map_or(name, |(_, user)| user);
        let found = self.0.get_key_value(name);
        let (name, password) = found.or_else(|| self.0.get_key_value(plain()))?;
        Some((name, password))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Secret)> for Users {
    fn from_iter<T: IntoIterator<Item = (String, Secret)>>(users: T) -> Self {
        Self(users.into_iter().collect())
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
