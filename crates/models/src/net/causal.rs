//! What a token of a language model sees.

use burn::tensor::{Int, Tensor};

/// 1 where a token (row) sees another (column), itself or one before it of the same document; a document begins with its
/// border. Padding lies behind all tokens, so that none of them sees it.
///
/// # Shapes
///
/// - inputs: `[n, 1, 1, tokens]`
/// - output: `[n, tokens, tokens]`
pub(super) fn seen(inputs: &Tensor<4>, border: Option<u16>) -> Tensor<3> {
    let ids = inputs.clone().flatten::<2>(1, 3);
    let [samples, tokens] = ids.dims();
    let before = Tensor::<2>::ones([tokens, tokens], &ids.device()).tril(0);
    let shape = [samples, tokens, tokens];
    let Some(border) = border else {
        return before.unsqueeze::<3>().expand(shape);
    };
    // How many documents have begun: sums of ones, which are exact.
    let begun = ids
        .equal_elem(f32::from(border))
        .float()
        .matmul(before.clone().transpose());
    let of_rows = begun.clone().unsqueeze_dim::<3>(2).expand(shape);
    let of_columns = begun.unsqueeze_dim::<3>(1).expand(shape);
    of_rows.equal(of_columns).float() * before.unsqueeze()
}

/// The place of each token in what it sees, counted from 0: positions begin anew with every document, and with a window,
/// which does not know how much of its first document lies before it.
///
/// # Shapes
///
/// - seen: as [`seen`] gives it
/// - output: `[n, tokens]`
pub(super) fn places(seen: &Tensor<3>) -> Tensor<2, Int> {
    (seen.clone().sum_dim(2).squeeze_dim::<2>(2) - 1.0).int()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const END: f32 = 1.0;

    fn of(ids: [f32; 5], border: Option<u16>) -> (Vec<f32>, Vec<i64>) {
        let inputs = Tensor::<1>::from_floats(ids, &Device::flex()).reshape([1, 1, 1, 5]);
        let seen = seen(&inputs, border);
        let places = places(&seen).float().try_into_vec_as::<f32>().unwrap();
        (
            seen.try_into_vec_as::<f32>().unwrap(),
            places.into_iter().map(|place| place as i64).collect(),
        )
    }

    #[test]
    fn a_token_sees_those_before_it_of_its_document() {
        #[rustfmt::skip]
        let expected = [
            1.0, 0.0, 0.0, 0.0, 0.0,
            1.0, 1.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 1.0, 0.0, 0.0,
            0.0, 0.0, 1.0, 1.0, 0.0,
            0.0, 0.0, 1.0, 1.0, 1.0,
        ];
        let (seen, places) = of([7.0, 8.0, END, 7.0, 8.0], Some(1));
        assert_eq!(seen, expected);
        assert_eq!(places, [0, 1, 0, 1, 2]);
        let (seen, places) = of([END, END, END, 7.0, 0.0], None);
        assert_eq!(seen.iter().sum::<f32>(), 15.0);
        assert_eq!(places, [0, 1, 2, 3, 4]);
    }
}
