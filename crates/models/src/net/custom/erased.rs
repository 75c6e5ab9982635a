//! A module without its type. Visitors and mappers of modules have methods for tensors of every rank, which no trait object
//! has: parameters cross as [`Any`], and find their rank again on the other side.

use std::any::Any;
use std::fmt;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
};
use burn::tensor::{Device, Tensor};

use super::{Dropout, Network};

/// Layers of somebody else's. Weights are their tensors of floats; what else they hold stays as it is.
#[derive(Debug)]
pub(in crate::net) struct Layers(pub(super) Box<dyn Erased>);

/// First part of all their weights' names, which so differ from others'.
const PATH: &str = "custom";

impl Layers {
    /// # Shapes
    ///
    /// - inputs: `[n, channels, height, width]`
    /// - output: `[n, channels, positions]`
    pub(in crate::net) fn forward(&self, inputs: Tensor<4>, dropout: &mut Dropout<'_>) -> Tensor<3> {
        self.0.run(inputs, dropout)
    }
}

pub(super) trait Erased: fmt::Debug + Send + Sync {
    fn run(&self, inputs: Tensor<4>, dropout: &mut Dropout<'_>) -> Tensor<3>;
    fn boxed(&self) -> Box<dyn Erased>;
    fn devices_of(&self, devices: Devices) -> Devices;
    fn to(self: Box<Self>, device: &Device) -> Box<dyn Erased>;
    fn forked(self: Box<Self>, device: &Device) -> Box<dyn Erased>;
    fn training(self: Box<Self>) -> Box<dyn Erased>;
    fn evaluating(&self) -> Box<dyn Erased>;
    fn plain(self: Box<Self>) -> Box<dyn Erased>;
    fn visited(&self, visitor: &mut dyn Visitor);
    fn mapped(self: Box<Self>, mapper: &mut dyn Mapper) -> Box<dyn Erased>;
}

impl<N: Network> Erased for N {
    fn run(&self, inputs: Tensor<4>, dropout: &mut Dropout<'_>) -> Tensor<3> {
        self.forward(inputs, dropout)
    }

    fn boxed(&self) -> Box<dyn Erased> {
        Box::new(self.clone())
    }

    fn devices_of(&self, devices: Devices) -> Devices {
        self.collect_devices(devices)
    }

    fn to(self: Box<Self>, device: &Device) -> Box<dyn Erased> {
        Box::new((*self).to_device(device))
    }

    fn forked(self: Box<Self>, device: &Device) -> Box<dyn Erased> {
        Box::new((*self).fork(device))
    }

    fn training(self: Box<Self>) -> Box<dyn Erased> {
        Box::new((*self).train())
    }

    fn evaluating(&self) -> Box<dyn Erased> {
        Box::new(self.valid())
    }

    fn plain(self: Box<Self>) -> Box<dyn Erased> {
        Box::new((*self).materialize())
    }

    fn visited(&self, visitor: &mut dyn Visitor) {
        self.visit(&mut Crossing(visitor));
    }

    fn mapped(self: Box<Self>, mapper: &mut dyn Mapper) -> Box<dyn Erased> {
        Box::new((*self).map(&mut Crossing(mapper)))
    }
}

/// A visitor on the far side.
pub(super) trait Visitor {
    /// `param`: a [`Param`] of a tensor of this rank.
    fn param(&mut self, param: &dyn Any, rank: usize);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// A mapper on the far side.
pub(super) trait Mapper {
    /// `param`, and what is given back: a [`Param`] of a tensor of this rank.
    fn param(&mut self, param: Box<dyn Any>, rank: usize) -> Box<dyn Any>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// The near side of both.
struct Crossing<T>(T);

impl ModuleVisitor for Crossing<&mut dyn Visitor> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.param(param, D);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl ModuleMapper for Crossing<&mut dyn Mapper> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let mapped = self.0.param(Box::new(param), D);
        *mapped.downcast().expect("the far side gives back the same type")
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

const TYPE: &str = "a parameter is of the rank that came with it";

/// Runs a body with a rank as a constant.
macro_rules! with_rank {
    ($rank:expr, $d:ident => $body:block) => {
        with_rank!(@ $rank, $d => $body, 1, 2, 3, 4, 5, 6, 7, 8)
    };
    (@ $rank:expr, $d:ident => $body:block, $($n:literal),*) => {
        match $rank {
            $($n => {
                const $d: usize = $n;
                $body
            })*
            rank => unreachable!("burn has no tensors of rank {rank}"),
        }
    };
}

impl<V: ModuleVisitor> Visitor for Crossing<&mut V> {
    fn param(&mut self, param: &dyn Any, rank: usize) {
        with_rank!(rank, D => { self.0.visit_float(param.downcast_ref::<Param<Tensor<D>>>().expect(TYPE)) });
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> Mapper for Crossing<&mut M> {
    fn param(&mut self, param: Box<dyn Any>, rank: usize) -> Box<dyn Any> {
        with_rank!(rank, D => {
            Box::new(self.0.map_float(*param.downcast::<Param<Tensor<D>>>().expect(TYPE)))
        })
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl Clone for Layers {
    fn clone(&self) -> Self {
        Self(self.0.boxed())
    }
}

impl Module for Layers {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.devices_of(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self(self.0.forked(device))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(self.0.to(device))
    }

    fn train(self) -> Self {
        Self(self.0.training())
    }

    fn valid(&self) -> Self {
        Self(self.0.evaluating())
    }

    fn materialize(self) -> Self {
        Self(self.0.plain())
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module(PATH, "Layers");
        self.0.visited(&mut Crossing(&mut *visitor));
        visitor.exit_module(PATH, "Layers");
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        mapper.enter_module(PATH, "Layers");
        let mapped = self.0.mapped(&mut Crossing(&mut *mapper));
        mapper.exit_module(PATH, "Layers");
        Self(mapped)
    }
}

impl ModuleDisplayDefault for Layers {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_single(&format!("{:?}", self.0)).optional()
    }
}

impl ModuleDisplay for Layers {}
