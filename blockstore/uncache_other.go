//go:build !linux

package blockstore

// Uncache implements File. Other systems keep pages that they failed to write
// dirty, so what they cache is what they will write.
func (f osFile) Uncache() error { return nil }
