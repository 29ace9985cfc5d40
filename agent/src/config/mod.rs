//! Configuration: from files to built plugins, with every error at once.

pub mod types;
