#include "models/kv_layout.h"

#include <algorithm>

#include "layers/kv_storage.h"

namespace minimo {

KvLayout MakeKvLayout(const ModelSpec& spec, DType kv_dtype, int block_size) {
  KvLayout layout;
  layout.groups = GroupKv(spec).groups;
  layout.bytes_per_element = static_cast<int>(SizeOf(kv_dtype));
  layout.block_size = block_size;
  for (const KvGroup& g : layout.groups) layout.ring_tokens = std::max(layout.ring_tokens, g.window);
  return layout;
}

}  // namespace minimo
