//go:build !race

package dag

// slowdown is by how much tests of size do less work.
const slowdown = 1
