// Models of a few layers at the released shapes, random weights, against the CPU's float32.
#pragma once

namespace minimo::testing {

void CheckReal();       // one layer of each kind, prompts and decode, FP8 and 4-bit experts
void CheckRealMixed();  // steps in which some sequences decode while the prompts of others are read
void CheckRealLong();   // contexts that decode attention cuts into many runs, prompts of many tiles
void CheckRealSmall();  // a few steps of it, for compute-sanitizer

}  // namespace minimo::testing
