// Names that both families share, so that a manifest lists only what is its own.
#pragma once

#include <string>

#include "models/manifest.h"

namespace minimo {

// embed_tokens, norm and lm_head.
void AddEnds(const ModelSpec& spec, Manifest* manifest);

// {prefix}input_layernorm, {prefix}{post_norm} and {prefix}self_attn.{q,k,v,o}_proj.
void AddAttention(const std::string& prefix, const std::string& post_norm, int layer, int hidden,
                  const AttentionSpec& attention, bool o_released_fp8, Manifest* manifest);

// {prefix}{gate,up,down}.weight; expert -1 for a dense feed-forward.
struct FfnNames {
  const char* gate;
  const char* up;
  const char* down;
};
void AddFfn(const std::string& prefix, const FfnNames& names, int layer, int expert, int hidden, int intermediate,
            Manifest* manifest);

}  // namespace minimo
