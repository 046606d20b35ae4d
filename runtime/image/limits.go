package image

import "time"

// Limits on what comes from outside, in bytes where no unit is named. They are far above real images (the largest public
// ones have about 130 layers, 20 GiB and 1,000,000 files) and far below what harms a machine.
const (
	MaxManifestSize = 4 << 20 // the distribution specification's own figure
	MaxConfigSize   = 8 << 20
	MaxLayers       = 256 // overlayfs takes 500 lower directories

	MaxLayerSize = 32 << 30 // one layer as it travels
	MaxImageSize = 64 << 30 // all layers of one image as they travel

	MaxUnpackedLayerSize = 64 << 30  // one layer, inflated
	MaxSparseSize        = 8 << 30   // of one layer's sparse files, holes included
	MaxLayerEntries      = 4_000_000 // files, directories, links in one layer
	MaxEntryNameLength   = 4096      // PATH_MAX
	MaxLayerNameBytes    = 512 << 20 // of all directories of one layer, which are kept in memory
	MaxEntryHeaderSize   = 1 << 20   // extended attributes of one entry

	// A layer may inflate to inflateFloor whatever its ratio, then to MaxInflateRatio times what was read. Gzip cannot exceed
	// 1032:1; zstd can (3000:1 and more).
	MaxInflateRatio = 200
	inflateFloor    = 1 << 30

	MaxArchiveSize    = 128 << 30 // an archive given to Load, inflated
	MaxArchiveEntries = 100_000   // files in such an archive: one to four a layer
	MaxArchiveImages  = 1_000     // images in one such archive
	MaxArchiveNames   = 2_000     // names of them all together: each becomes a row on every log-holder
	maxLinkHops       = 8         // links to links inside an archive
	maxIndexDepth     = 3         // indexes of indexes

	maxNameLength     = 1024
	minPrefixLength   = 6 // of an id that Get accepts
	defaultPullJobs   = 4 // layers at the same time
	unpackJobs        = 2 // layers of one image at the same time: inflating and writing each keep a core busy
	maxUploads        = 64
	progressInterval  = 100 * time.Millisecond
	defaultPruneGrace = time.Hour
)
