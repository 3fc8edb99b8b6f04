// What fits where: for each machine, the context left beside the weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/summary.h"
#include "spec/model_spec.h"

namespace minimo {

struct Hardware {
  std::string name;    // "2x H200"
  int devices = 1;     // ranks that share the weights; KV heads are copied where ranks outnumber them
  double bytes = 0;    // of one device
  bool gpu = false;
};

// GPUs by the number, machines by their RAM.
std::vector<Hardware> CommonHardware();

struct Fit {
  Hardware hardware;
  bool weights_fit = false;
  int64_t free_bytes = 0;       // over all devices, after weights and the reserve; negative: what is missing
  int64_t context_tokens = 0;   // of all sequences together, bf16 KV, at `sequences` of them
};

// kReserve of each device is left to activations, graphs and the system.
inline constexpr double kReserve = 0.08;

// `ranks` > 0: of files written for so many, on that number of GPUs alone, beside the CPU.
std::vector<Fit> WhatFits(const ModelSpec& spec, const ModelSummary& summary, int sequences, int ranks = 0);

}  // namespace minimo
