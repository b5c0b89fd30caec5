package dag

import "context"

// count adds up the files below top, so that progress has a total. It reads directories
// and inodes only, a small part of what the import does. It gives up silently: what stops
// it stops the import too, which then says so.
func (im *importer) count(ctx context.Context, top *importDir) {
	var files, bytes int64
	err := im.walk(ctx, top, func(j job) error {
		if j.slot < 0 {
			return nil
		}
		if j.info.Mode().IsRegular() {
			files++
			bytes += j.info.Size()
		}
		j.dir.root.release()
		return nil
	})
	if err == nil {
		im.meter.totalFiles.Store(files)
		im.meter.totalBytes.Store(bytes)
	}
}
