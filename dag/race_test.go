//go:build race

package dag

// slowdown is by how much tests of size do less work. The race detector takes ten times
// as long, and looks for something else than size.
const slowdown = 10
