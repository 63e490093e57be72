//! Bit-vectors of a solver as a domain, with room for one fault.

use decision::Domain;
use easy_smt::{Context, SExpr};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

/// A mistake in one operation of the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// In which one, counted from 0 in the order in which the kernel does them.
    pub(crate) at: usize,
    /// Which of the two mistakes that each operation knows.
    pub(crate) second: bool,
}

/// Expressions of a solver. 64-bit vectors for numbers.
pub(crate) struct Symbolic {
    context: Rc<RefCell<Context>>,
    fault: Option<Fault>,
    operations: Cell<usize>,
}

impl Symbolic {
    /// The domain; with a fault, every domain with the same fault does the same operation wrong.
    pub(crate) fn new(context: &Rc<RefCell<Context>>, fault: Option<Fault>) -> Self {
        Self { context: Rc::clone(context), fault, operations: Cell::new(0) }
    }

    /// How many operations were done.
    pub(crate) fn operations(&self) -> usize {
        self.operations.get()
    }

    /// Which mistake to make in the operation that comes now.
    fn mistake(&self) -> Option<bool> {
        let at = self.operations.replace(self.operations.get() + 1);
        self.fault.filter(|fault| fault.at == at).map(|fault| fault.second)
    }
}

impl Domain for Symbolic {
    type N = SExpr;
    type B = SExpr;

    fn number(&self, value: u64) -> SExpr {
        self.context.borrow().binary(64, value)
    }

    fn add(&self, a: SExpr, b: SExpr) -> SExpr {
        match self.mistake() {
            None => self.context.borrow().bvadd(a, b),
            Some(false) => self.context.borrow().bvsub(a, b),
            Some(true) => a,
        }
    }

    fn sub(&self, a: SExpr, b: SExpr) -> SExpr {
        match self.mistake() {
            None => self.context.borrow().bvsub(a, b),
            Some(false) => self.context.borrow().bvadd(a, b),
            Some(true) => self.context.borrow().bvsub(b, a),
        }
    }

    fn below(&self, a: SExpr, b: SExpr) -> SExpr {
        match self.mistake() {
            None => self.context.borrow().bvult(a, b),
            Some(false) => self.context.borrow().bvule(a, b),
            Some(true) => self.context.borrow().bvslt(a, b),
        }
    }

    fn and(&self, a: SExpr, b: SExpr) -> SExpr {
        match self.mistake() {
            None => self.context.borrow().and(a, b),
            Some(false) => a,
            Some(true) => b,
        }
    }

    fn not(&self, a: SExpr) -> SExpr {
        match self.mistake() {
            None => self.context.borrow().not(a),
            Some(false) => a,
            Some(true) => self.context.borrow().true_(),
        }
    }

    fn choose(&self, condition: SExpr, yes: SExpr, no: SExpr) -> SExpr {
        match self.mistake() {
            None => self.context.borrow().ite(condition, yes, no),
            Some(false) => yes,
            Some(true) => no,
        }
    }
}
