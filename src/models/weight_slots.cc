#include "models/weight_slots.h"

namespace minimo {

Vector* VectorSlot(const TensorSpec& t, DecoderWeights* w) {
  LayerWeights* layer = t.layer >= 0 ? &w->layers[t.layer] : nullptr;
  switch (t.part) {
    case TensorPart::kFinalNorm: return &w->final_norm;
    case TensorPart::kInputNorm: return &layer->input_norm;
    case TensorPart::kPostAttentionNorm: return &layer->post_attention_norm;
    case TensorPart::kQNorm: return &layer->q_norm;
    case TensorPart::kKNorm: return &layer->k_norm;
    case TensorPart::kSinks: return &layer->sinks;
    case TensorPart::kRouterBias: return &layer->router_bias;
    default: return nullptr;
  }
}

Weight* FfnSlot(TensorPart part, FfnWeights* ffn) {
  switch (part) {
    case TensorPart::kGate:
    case TensorPart::kExpertGate: return &ffn->gate;
    case TensorPart::kUp:
    case TensorPart::kExpertUp: return &ffn->up;
    case TensorPart::kDown:
    case TensorPart::kExpertDown: return &ffn->down;
    default: return nullptr;
  }
}

Weight* MatrixSlot(const TensorSpec& t, DecoderWeights* w) {
  LayerWeights* layer = t.layer >= 0 ? &w->layers[t.layer] : nullptr;
  switch (t.part) {
    case TensorPart::kEmbedding: return &w->embedding;
    case TensorPart::kLmHead: return &w->lm_head;
    case TensorPart::kQ: return &layer->q;
    case TensorPart::kK: return &layer->k;
    case TensorPart::kV: return &layer->v;
    case TensorPart::kO: return &layer->o;
    case TensorPart::kRouter: return &layer->router;
    case TensorPart::kGate:
    case TensorPart::kUp:
    case TensorPart::kDown: return FfnSlot(t.part, &layer->dense);
    case TensorPart::kExpertGate:
    case TensorPart::kExpertUp:
    case TensorPart::kExpertDown: return FfnSlot(t.part, &layer->experts[t.expert]);
    default: return nullptr;
  }
}

DecoderWeights EmptyWeights(const ModelSpec& spec) {
  DecoderWeights weights;
  weights.layers.resize(spec.layers.size());
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    if (spec.layers[i].moe) weights.layers[i].experts.resize(static_cast<size_t>(spec.moe.experts));
  }
  return weights;
}

}  // namespace minimo
