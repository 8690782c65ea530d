"""Operators of ONNX files: which of them sum up products with weights, and where among their inputs the weights are.

Every operator is one of three: it counts, it is known to sum up no products with weights, or it is refused by name. So
nothing that may hold weights is taken as free of cost, in ONNX's own domain or in that of ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import printable

_OWN, _MICROSOFT, _ML = "", "com.microsoft", "ai.onnx.ml"
_LAID_OUT: Final = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""Domains that ONNX Runtime writes for one processor: weights are padded and reordered there."""


@dataclass(frozen=True)
class Operands:
    """Positions among a node's inputs: of what it is applied to, of its weight, and of its bias (None: it has none).

    ``more``: further weights.
    """

    data: int = 0
    weight: int = 1
    bias: int | None = 2
    more: tuple[int, ...] = ()


CONVOLUTIONS: Final = {
    (_OWN, "Conv"): Operands(),
    (_OWN, "ConvTranspose"): Operands(),
    (_OWN, "ConvInteger"): Operands(bias=None),
    (_OWN, "QLinearConv"): Operands(weight=3, bias=8),
    (_OWN, "DeformConv"): Operands(bias=3),
    (_MICROSOFT, "FusedConv"): Operands(),
    (_MICROSOFT, "QLinearConv"): Operands(weight=3, bias=8),
    (_MICROSOFT, "ConvTransposeWithDynamicPads"): Operands(bias=3),
}
"""Weights (O, I / groups, *kernel); of the transposed ones (I, O / groups, *kernel)."""

PRODUCTS: Final = {
    (_OWN, "Gemm"): Operands(),
    (_OWN, "MatMul"): Operands(bias=None),
    (_OWN, "MatMulInteger"): Operands(bias=None),
    (_OWN, "QLinearMatMul"): Operands(weight=3, bias=None),
    (_MICROSOFT, "FusedGemm"): Operands(),
    (_MICROSOFT, "GemmFastGelu"): Operands(),
    (_MICROSOFT, "FusedMatMul"): Operands(bias=None),
    (_MICROSOFT, "FusedMatMulActivation"): Operands(bias=None),
    (_MICROSOFT, "TransposeMatMul"): Operands(bias=None),
    (_MICROSOFT, "QGemm"): Operands(weight=3, bias=6),
    (_MICROSOFT, "MatMulIntegerToFloat"): Operands(bias=6),
    (_MICROSOFT, "MatMulInteger16"): Operands(bias=None),
    (_MICROSOFT, "DynamicQuantizeMatMul"): Operands(bias=4),
    (_MICROSOFT, "Attention"): Operands(),  # of queries, keys and values; products of these are not counted
    (_MICROSOFT, "QAttention"): Operands(),
}
"""Weights (..., inputs, outputs) on the right, unless the node says that it transposes."""

PACKED: Final = {(_MICROSOFT, "MatMulNBits"): Operands(bias=5)}
"""Weights of a few bits, several to a byte: their shape is in the attributes ``K`` (inputs) and ``N`` (outputs)."""

RECURRENT: Final = {
    (_OWN, "LSTM"): Operands(bias=3, more=(2,)),
    (_OWN, "GRU"): Operands(bias=3, more=(2,)),
    (_OWN, "RNN"): Operands(bias=3, more=(2,)),
    (_MICROSOFT, "DynamicQuantizeLSTM"): Operands(bias=3, more=(2,)),
}
"""Data (steps, N, inputs); weights (directions, ...) of the data and, second, of the state."""

SUMS: Final = frozenset({(_OWN, "Einsum")})
"""Products of any operands, by an equation."""

NON_PARAMETER_INPUTS: Final = {
    "BatchNormalization": (3, 4),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "QLinearSigmoid": (1, 2, 3, 4),
    "QLinearLeakyRelu": (1, 2, 3, 4),
    "QLinearAveragePool": (1, 2, 3, 4),
    "QLinearGlobalAveragePool": (1, 2, 3, 4),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "QAttention": (3, 4, 6, 7),
    "MatMulNBits": (1, 2, 3, 4),  # its weights are counted by their number, not by the bytes they are packed in
}
"""Inputs that are no parameters: statistics of BatchNormalization, scales and zero points, sizes."""

_FREE_NAMES: Final = {
    _OWN: (
        "Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool "
        "BatchNormalization Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast "
        "CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Cos "
        "Cosh CumProd CumSum DFT DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp "
        "Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool "
        "Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax "
        "Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax "
        "LpNormalization LpPool Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min "
        "Mish Mod Mul Multinomial Neg NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement "
        "OptionalHasElement Or PRelu Pad Pow QuantizeLinear RMSNormalization RandomNormal RandomNormalLike "
        "RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax "
        "ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign "
        "RotaryEmbedding Round STFT Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty "
        "SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh "
        "Size Slice Softmax Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum SwiGLU Swish Tan "
        "Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor"
    ),
    _MICROSOFT: (
        "BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu DequantizeLinear EmbedLayerNormalization ExpandDims "
        "FastGelu GatherBlockQuantized GatherND Gelu GridSample GroupNorm GroupQueryAttention IsAllFinite "
        "MaxpoolWithMask MultiHeadAttention NhwcMaxPool Pad QEmbedLayerNormalization QLinearAdd QLinearAveragePool "
        "QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid "
        "QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu Range ReduceSumInteger RotaryEmbedding ScaledSiLU "
        "SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization Trilu UnfoldTensor Unique"
    ),
    _ML: (
        "ArrayFeatureExtractor Binarizer CastMap CategoryMapper Imputer LabelEncoder Normalizer OneHotEncoder Scaler "
        "ZipMap"
    ),
    "com.microsoft.nchwc": ("AveragePool GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample"),
    "com.ms.internal.nhwc": (
        "AveragePool BatchNormalization DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample "
        "InstanceNormalization LRN LpPool MaxPool MaxUnpool QLinearAveragePool Resize SpaceToDepth"
    ),
}
_FREE: Final = {domain: frozenset(names.split()) for domain, names in _FREE_NAMES.items()}
"""Operators that sum up no products with weights: pointwise ones, norms, pooling, moving of values, attention."""

_WITH_GRAPHS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def kind_of(node: Any) -> tuple[str, str]:
    """The domain and the name of a node's operator; ONNX's own domain is empty."""
    return "" if node.domain == "ai.onnx" else str(node.domain), str(node.op_type)


def operands_of(node: Any) -> Operands | None:
    """Where the operands of a node are that sums up products with weights; None for any other, and for an Einsum."""
    kind = kind_of(node)
    return CONVOLUTIONS.get(kind) or PRODUCTS.get(kind) or RECURRENT.get(kind) or PACKED.get(kind)


def sums_products(node: Any) -> bool:
    """Whether a node may sum up products with weights that count."""
    return operands_of(node) is not None or kind_of(node) in SUMS


def refuse_uncounted(node: Any, path: Path) -> None:
    """Refuse an operator of which it is not known what it computes with weights.

    Raises:
        ExportError: it is one; it is named.
    """
    domain, name = kind_of(node)
    if sums_products(node) or name in _FREE.get(domain, frozenset()) or (not domain and name in _WITH_GRAPHS):
        return
    what = f"the operator '{printable(name)}'{f' of {printable(domain)}' if domain else ''}"
    where = f"{path}: {what} at '{printable(node.name or node.output[0])}'"
    if domain in _LAID_OUT:
        raise ExportError(
            f"{where} holds weights that were laid out for one processor, and its MACs are not counted: check the file "
            "that was optimised"
        )
    raise ExportError(
        f"{where} may hold weights, and its MACs are not counted: export the model with operators of ONNX's own, or "
        "check the model itself (path/to/file.py:factory)"
    )
