//! The probe: short training of the superset that measures each group's influence.

pub mod influence;
