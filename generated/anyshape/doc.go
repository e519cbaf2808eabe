// Package anyshape holds the assembly kernels that serve every shape: matrix
// products with all strides in registers, and the elementwise kernels. They
// come from the same emitters as the specialised ones and give the same bits.
// On other architectures, and with the build tag purego, it is empty.
package anyshape

//go:generate go run ../../cmd/sffngen anyshape --out .
