#include "models/summary.h"

#include "models/kv_layout.h"

namespace minimo {
namespace {

const char* PartName(const TensorSpec& t) {
  if (t.mtp) return "mtp";
  switch (t.part) {
    case TensorPart::kEmbedding: return "embedding";
    case TensorPart::kLmHead: return "lm head";
    case TensorPart::kQ:
    case TensorPart::kK:
    case TensorPart::kV:
    case TensorPart::kO:
    case TensorPart::kSinks: return "attention";
    case TensorPart::kRouter:
    case TensorPart::kRouterBias: return "router";
    case TensorPart::kGate:
    case TensorPart::kUp:
    case TensorPart::kDown: return "dense ffn";
    case TensorPart::kExpertGate:
    case TensorPart::kExpertUp:
    case TensorPart::kExpertDown: return "experts";
    default: return "norms";
  }
}

}  // namespace

ModelSummary Summarize(const LoadedModel& model) {
  ModelSummary s;
  const ModelSpec& spec = model.spec;
  for (const TensorSpec& t : model.family->manifest(spec)) {
    int64_t bytes = 0;
    const PackedNames packed = PackedNamesOf(t.name);
    for (const std::string& name : {t.name, ScaleName(t.name), packed.packed, packed.scale, packed.shape}) {
      const TensorView* view = model.checkpoint->Find(name);
      if (view == nullptr) continue;
      bytes += view->bytes();
      s.bytes_by_dtype[std::string(NameOf(view->dtype))] += view->bytes();
    }
    const int64_t count = NumElements(t.shape);
    PartSize& part = s.parts[PartName(t)];
    part.parameters += count;
    part.bytes += bytes;
    if (t.mtp) {
      s.mtp_parameters += count;
      continue;
    }
    // One token reads one row of the embedding, and top_k of the experts.
    const bool expert = t.expert >= 0;
    const int64_t share = t.part == TensorPart::kEmbedding ? spec.vocab : expert ? spec.moe.experts : 1;
    const int64_t times = expert ? spec.moe.top_k : 1;
    part.active += count * times / share;
    s.weight_bytes_per_token += bytes * times / share;
    s.total.parameters += count;
    s.total.bytes += bytes;
  }
  for (const auto& [name, part] : s.parts) s.total.active += part.active;
  const KvLayout kv = MakeKvLayout(spec, DType::kBf16, 16);
  s.kv_bytes_per_token = kv.BytesPerToken();
  s.kv_bytes_per_sequence = kv.BytesPerRing();
  return s;
}

}  // namespace minimo
