//! Consumers that share a subscription: who reads what.
//!
//! | file | what |
//! | --- | --- |
//! | `assignor` | which member reads which partition (pure) |
//! | `membership` | who is a member, and what each may read now (pure) |

#![cfg_attr(not(test), expect(dead_code, reason = "nobody joins a group yet"))]

mod assignor;
mod membership;
