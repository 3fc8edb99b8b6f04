// One manifest entry against the checkpoint: dtype and shape checked, scales found, a Weight or Vector made. An entry
// may be a rank's part (RankManifest): its scales are then those of the blocks that the part touches, or, where the
// whole's grid is not the plain one (MiMo's fused K/V scales), expanded to one row of scales a row of weights.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "layers/weight.h"
#include "minimo/result.h"
#include "models/manifest.h"

namespace minimo {

// Collects what is wrong with a checkpoint, so that all of it is named at once.
struct BindingFaults {
  std::vector<std::string> missing;
  std::vector<std::string> wrong;  // "NAME: found F16 [3, 4], expected [4, 3]"
  bool empty() const { return missing.empty() && wrong.empty(); }
  Status AsStatus(const std::string& folder) const;  // one line, OK if empty
};

// "a, b, c and 7 more"
std::string Listed(const std::vector<std::string>& names);

class WeightBinder {
 public:
  WeightBinder(const Checkpoint& checkpoint, BindingFaults* faults) : checkpoint_(checkpoint), faults_(faults) {}

  // A matrix in the format the file has. K and V go through BindKeyValue.
  Weight Matrix(const TensorSpec& spec);
  // A small vector, converted to float32.
  Vector Floats(const TensorSpec& spec);
  // K and V of one layer; true if their scales follow the fused grid.
  bool KeyValue(const TensorSpec& k, const TensorSpec& v, const AttentionSpec& attention, Weight* k_weight,
                Weight* v_weight);

 private:
  const TensorView* FindChecked(const TensorSpec& spec);
  Weight WithoutScales(const TensorSpec& spec, const TensorView& view);
  // A 4-bit weight, if the checkpoint has it packed.
  Weight Packed(const TensorSpec& spec, const TensorView& packed);
  // The scale tensor of an FP8 weight, or null after a fault.
  const TensorView* Scales(const TensorSpec& spec, int64_t scale_rows);

  const Checkpoint& checkpoint_;
  BindingFaults* faults_;
};

}  // namespace minimo
