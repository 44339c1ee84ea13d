//! The linear layer: the one seam at which a precision recipe acts on weight products.
//!
//! Every weight matrix is multiplied here and nowhere else: the projections of a feed-forward block,
//! and whatever else a model puts through it. Nothing about a recipe shows in a checkpoint: on disk there is
//! one named weight, without a bias.

use std::sync::Arc;

use candle_core::{Device, Error, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use kernels::{Kernels, Observer, Projection, QuantizedLinear, Role};
use numerics::{Contraction, NumericFormat, Scaling};

use crate::precision::{LinearFormats, LinearRole, Precision};

/// `y = x W^T` with `W` stored as `[d_out, d_in]`; no bias.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    kernels: Kernels,
    low: Option<LowPrecision>,
}

/// What a layer needs when its recipe is not f32 throughout.
#[derive(Debug, Clone)]
struct LowPrecision {
    formats: LinearFormats,
    output: NumericFormat,
    observer: Arc<dyn Observer>,
}

impl LowPrecision {
    fn how(&self) -> QuantizedLinear {
        QuantizedLinear {
            input: self.formats.input,
            weight: self.formats.weight,
            grad: self.formats.grad,
            output: self.output,
            smooth: self.formats.smooth,
            observer: self.observer.clone(),
        }
    }
}

impl Linear {
    /// Takes the parameter `weight` of shape `[d_out, d_in]` from `vb`, where `init` says how to
    /// draw it if it does not exist yet. `role` decides what `precision` does with its products.
    ///
    /// # Errors
    ///
    /// If `vb` has no such parameter or one of another shape.
    pub fn new(
        [d_in, d_out]: [usize; 2],
        vb: VarBuilder,
        init: Init,
        kernels: Kernels,
        precision: &Precision,
        role: LinearRole,
    ) -> Result<Self> {
        let weight = vb.get_with_hints((d_out, d_in), "weight", init)?;
        Ok(Self::from_weight(weight, &vb.prefix(), kernels, precision, role))
    }

    /// A layer over a weight `[d_out, d_in]` that something else owns, such as an output head tied to
    /// the embedding. `name` is what records call the layer.
    pub fn from_weight(
        weight: Tensor,
        name: &str,
        kernels: Kernels,
        precision: &Precision,
        role: LinearRole,
    ) -> Self {
        let low = precision.recipe().linear(role).map(|formats| LowPrecision {
            formats,
            output: precision.recipe().compute.format(),
            observer: precision.observer(name.to_owned()),
        });
        Self { weight, kernels, low }
    }

    /// `x` of shape `[.., d_in]` becomes `[.., d_out]`.
    ///
    /// # Errors
    ///
    /// If the last dimension of `x` is not `d_in`, or its dtype or device is not the weight's; under a recipe
    /// below f32, if they are not f32 on the CPU.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.low.as_ref().map(LowPrecision::how) {
            None => kernels::linear(self.kernels, x, &self.weight),
            Some(how) => kernels::quantized_linear(self.kernels, x, &self.weight, how),
        }
    }

    /// The layer as part of a fused block.
    pub fn projection(&self) -> Projection {
        Projection { weight: self.weight.clone(), low: self.low.as_ref().map(LowPrecision::how) }
    }

    /// The weight as the product sees it, `[d_out, d_in]`, f32 on the CPU: under a recipe, what its quantised operand
    /// stands for; otherwise the weight itself. Smooth-SwiGLU's factors, powers of two that depend on the input and
    /// cancel, are left out.
    ///
    /// # Errors
    ///
    /// If a block of the recipe does not divide a width.
    pub fn weight_in_product(&self) -> Result<Tensor> {
        let Some(low) = &self.low else {
            return self.weight.detach().to_device(&Device::Cpu);
        };
        let (rows, cols) = self.weight.dims2()?;
        let mut spec = low.formats.weight;
        let scale = low.observer.delayed_scale(Role::Weight, &spec);
        if scale.is_none() && matches!(spec.scaling, Scaling::Delayed { .. }) {
            spec.scaling = Scaling::Tensor; // nothing has been seen yet
        }
        let values = self.weight.flatten_all()?.to_vec1::<f32>()?;
        let (along, key) = (Contraction::Columns, low.observer.key(Role::Weight));
        let operand =
            numerics::quantize(&values, rows, cols, along, &spec, key, scale).map_err(Error::wrap)?;
        Tensor::from_vec(operand.dequantize(rows, cols, along), (rows, cols), &Device::Cpu)
    }

    /// The weight, `[d_out, d_in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}
