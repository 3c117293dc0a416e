"""Operators that onnxruntime's CPU provider implements, by release. Generated.

Made by ``converters/kernel_census.py`` from the runtimes' own registries (x86-64 wheels). A word is
an operator and the versions of its definition that have a kernel; the first release is whole, a
later one lists what differs from the one before it.
"""

CPU: dict[str, str] = {
    "1.22.0": """
Abs:6,13 Acos:7,22 Acosh:9,22 Add:7,13,14 Affine:1 AffineGrid:20 And:7 ArgMax:1,11,12,13
ArgMin:1,11,12,13 Asin:7,22 Asinh:9,22 Atan:7,22 Atanh:9,22 AveragePool:7,10,11,19,22
BatchNormalization:7,9,14,15 Bernoulli:15 BitShift:11 BitwiseAnd:18 BitwiseNot:18 BitwiseOr:18
BitwiseXor:18 BlackmanWindow:17 Cast:6,9,13,19,21 CastLike:15,19,21 Ceil:6,13 Celu:12
CenterCropPad:18 Clip:6,11,12,13 Col2Im:18 Compress:9,11 Concat:4,11,13 ConcatFromSequence:11
Constant:1,9,11,12,13,19,21 ConstantOfShape:9,20,21 Conv:1,11,22 ConvInteger:10
ConvTranspose:1,11,22 Cos:7,22 Cosh:9,22 Crop:1 CumSum:11,14 DFT:17,20 DepthToSpace:1,11,13
DequantizeLinear:10,13,19,21 Det:11,22 DisentangledAttention_TRT:1 Div:7,13,14
Dropout:7,10,12,13,22 DynamicQuantizeLinear:11 DynamicSlice:1 EfficientNMS_TRT:1 Einsum:12
Elu:6,22 Equal:7,11,13,19 Erf:9,13 Exp:6,13 Expand:8,13 EyeLike:9,22 Flatten:1,9,11,13,21
Floor:6,13 GRU:7,14,22 Gather:1,11,13 GatherElements:11,13 GatherND:11,12,13 Gelu:20
Gemm:7,9,11,13 GlobalAveragePool:1,22 GlobalLpPool:2 GlobalMaxPool:1,22 Greater:7,9,13
GreaterOrEqual:12,16 GridSample:16,20,22 GroupNormalization:18,21 HammingWindow:17 HannWindow:17
HardSigmoid:6,22 HardSwish:14,22 Hardmax:1,11,13 Identity:1,13,14,16,19,21 If:1,11,13,16,19,21
ImageDecoder:20 ImageScaler:1 InstanceNormalization:6,22 IsInf:10,20 IsNaN:9,13,20 LRN:1,13
LSTM:7,14,22 LayerNormalization:1,17 LeakyRelu:6,16 Less:7,9,13 LessOrEqual:12,16 Log:6,13
LogSoftmax:1,11,13 Loop:1,11,13,16,19,21 LpNormalization:1 LpPool:2,11,18,22 MatMul:1,9,13
MatMulInteger:10 Max:6,8,12,13 MaxPool:1,8,10,11,12,22 MaxRoiPool:1 MaxUnpool:9,11,22
Mean:6,8,13 MeanVarianceNormalization:1,9,13 MelWeightMatrix:17 Min:6,8,12,13 Mish:18,22
Mod:10,13 Mul:7,13,14 MultilevelCropAndResize_TRT:1 Multinomial:7 Neg:6,13
NegativeLogLikelihoodLoss:12,13,22 NonMaxSuppression:10,11 NonZero:9,13 Not:1 OneHot:9,11
Optional:15 OptionalGetElement:15,18 OptionalHasElement:15,18 Or:7 PRelu:7,9,16
Pad:2,11,13,18,19,21 ParametricSoftplus:1 Pow:7,12,13,15 PyramidROIAlign_TRT:1 QLinearConv:10
QLinearMatMul:10,21 QuantizeLinear:10,13,19,21 RNN:7,14,22 RandomNormal:1 RandomNormalLike:1
RandomUniform:1 RandomUniformLike:1 Range:11 Reciprocal:6,13 ReduceL1:1,11,13,18
ReduceL2:1,11,13,18 ReduceLogSum:1,11,13,18 ReduceLogSumExp:1,11,13,18
ReduceMax:1,11,12,13,18,20 ReduceMean:1,11,13,18 ReduceMin:1,11,12,13,18,20
ReduceProd:1,11,13,18 ReduceSum:1,11,13 ReduceSumSquare:1,11,13,18 RegexFullMatch:20
Relu:6,13,14 Reshape:1,5,13,14,19,21 Resize:10,11,13,18,19 ReverseSequence:10 RoiAlign:10,16
Round:11,22 STFT:17 Scale:1 ScaledTanh:1 Scan:8,9,11,16,19,21 Scatter:9
ScatterElements:11,13,16,18 ScatterND:11,13,16,18 Selu:6,22 SequenceAt:11 SequenceConstruct:11
SequenceEmpty:11 SequenceErase:11 SequenceInsert:11 SequenceLength:11 SequenceMap:17
Shape:1,13,15,19,21 Shrink:9 Sigmoid:6,13 Sign:9,13 SimplifiedLayerNormalization:1 Sin:7,22
Sinh:9,22 Size:1,13,19,21 Slice:1,10,11,13 Softmax:1,11,13 SoftmaxCrossEntropyLoss:12,13
Softplus:1,22 Softsign:1,22 SpaceToDepth:1,13 Split:2,11,13,18 SplitToSequence:11 Sqrt:6,13
Squeeze:1,11,13,21 StringConcat:20 StringNormalizer:10 StringSplit:20 Sub:7,13,14 Sum:6,8,13
Tan:7,22 Tanh:6,13 TfIdfVectorizer:9 ThresholdedRelu:1,10,22 Tile:6,13 TopK:1,10,11
Transpose:1,13,21 Trilu:14 Unique:11 Unsqueeze:1,11,13,21 Upsample:7,9 Where:9,16 Xor:7
ai.onnx.ml:ArrayFeatureExtractor:1 ai.onnx.ml:Binarizer:1 ai.onnx.ml:CastMap:1
ai.onnx.ml:CategoryMapper:1 ai.onnx.ml:DictVectorizer:1 ai.onnx.ml:FeatureVectorizer:1
ai.onnx.ml:Imputer:1 ai.onnx.ml:LabelEncoder:1,2,4 ai.onnx.ml:LinearClassifier:1
ai.onnx.ml:LinearRegressor:1 ai.onnx.ml:Normalizer:1 ai.onnx.ml:OneHotEncoder:1
ai.onnx.ml:SVMClassifier:1 ai.onnx.ml:SVMRegressor:1 ai.onnx.ml:Scaler:1
ai.onnx.ml:TreeEnsemble:5 ai.onnx.ml:TreeEnsembleClassifier:1,3
ai.onnx.ml:TreeEnsembleRegressor:1,3 ai.onnx.ml:ZipMap:1
""",
    "1.24.4": """
Attention:23,24 Cast:6,9,13,19,21,23,24,25 CastLike:15,19,21,23,24,25
Constant:1,9,11,12,13,19,21,23,24,25 ConstantOfShape:9,20,21,23,24,25
DequantizeLinear:10,13,19,21,23,24,25 Flatten:1,9,11,13,21,23,24,25
Identity:1,13,14,16,19,21,23,24,25 If:1,11,13,16,19,21,23,24,25 Loop:1,11,13,16,19,21,23,24,25
MemcpyFromHost:1 MemcpyToHost:1 Pad:2,11,13,18,19,21,23,24,25
QuantizeLinear:10,13,19,21,23,24,25 RMSNormalization:23 Reshape:1,5,13,14,19,21,23,24,25
RotaryEmbedding:23 Scan:8,9,11,16,19,21,23,24,25 Shape:1,13,15,19,21,23,24,25
Size:1,13,19,21,23,24,25 SplitToSequence:11,24 Squeeze:1,11,13,21,23,24,25 Swish:24
TensorScatter:24 TopK:1,10,11,24 Transpose:1,13,21,23,24,25 Unsqueeze:1,11,13,21,23,24,25
""",
    "1.27.0": """
BitCast:26 CumProd:26 DeformConv:19,22 LpNormalization:1,22
""",
    "1.31.1": """
Range:11,27
""",
}
