//! The input of the doctor's checks.

use crate::facts::host::Host;
use crate::plan::inputs::Inputs;

/// The facts that a check reads.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// The facts from which a plan is computed.
    pub inputs: Inputs<'a>,
    /// The facts that no plan depends on.
    pub host: &'a Host,
}
