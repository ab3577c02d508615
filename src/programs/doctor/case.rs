//! What the rows of the table look at.

use crate::facts::host::Host;
use crate::plan::inputs::Inputs;

/// What the rows look at.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// What a plan follows from.
    pub inputs: Inputs<'a>,
    /// What no plan follows from.
    pub host: &'a Host,
}
