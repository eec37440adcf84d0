//! Texts: those of the command line, or else lines of the input.

use std::io::{BufRead, IsTerminal};

use super::Result;

/// Where texts come from. Each has a number, from 1, by which errors call it.
pub(crate) struct Texts<'a, R> {
    /// Those of the command line.
    pub(crate) given: &'a [String],
    /// Read where none is given: a text a line.
    pub(crate) input: R,
    /// The most that are answered at once.
    pub(crate) batch: usize,
}

impl<'a> Texts<'a, std::io::StdinLock<'static>> {
    /// With standard input. Who types gets each answer at once.
    pub(crate) fn new(given: &'a [String], batch: usize) -> Self {
        let stdin = std::io::stdin();
        let batch = if given.is_empty() && stdin.is_terminal() { 1 } else { batch };
        Texts { given, input: stdin.lock(), batch }
    }
}

impl<R: BufRead> Texts<'_, R> {
    /// Reads what is given on the command line, so that what is wrong with it is found before anything else is done.
    pub(crate) fn check<T>(&self, read: impl Fn(&str) -> Result<T>) -> Result<()> {
        self.given.iter().enumerate().try_for_each(|(i, text)| numbered(i + 1, read(text)).map(drop))
    }

    /// Reads texts and answers them, in their order and a batch at a time. Those before a text that is wrong are answered.
    pub(crate) fn answer<T>(
        self,
        read: impl Fn(&str) -> Result<T>,
        mut answer: impl FnMut(&[T]) -> Result<()>,
    ) -> Result<()> {
        let Texts { given, input, batch } = self;
        let lines = input.lines().map(|line| line.map_err(|error| format!("standard input: {error}").into()));
        let texts: Box<dyn Iterator<Item = Result<String>> + '_> =
            if given.is_empty() { Box::new(lines) } else { Box::new(given.iter().cloned().map(Ok)) };
        let mut texts = texts.enumerate().map(|(i, text)| numbered(i + 1, text.and_then(|text| read(&text))));
        loop {
            let (mut group, mut wrong) = (vec![], None);
            for text in texts.by_ref().take(batch) {
                match text {
                    Ok(text) => group.push(text),
                    Err(error) => {
                        wrong = Some(error);
                        break;
                    }
                }
            }
            if !group.is_empty() {
                answer(&group)?;
            }
            match wrong {
                Some(error) => return Err(error),
                None if group.is_empty() => return Ok(()),
                None => {}
            }
        }
    }
}

fn numbered<T>(number: usize, result: Result<T>) -> Result<T> {
    result.map_err(|error| format!("text {number}: {error}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u32> {
        Ok(text.parse()?)
    }

    fn groups(given: &[&str], input: &str, batch: usize) -> Result<Vec<Vec<u32>>, String> {
        let given: Vec<String> = given.iter().map(|&text| text.to_owned()).collect();
        let mut groups = vec![];
        let texts = Texts { given: &given, input: input.as_bytes(), batch };
        let answered = texts.answer(parse, |group| {
            groups.push(group.to_vec());
            Ok(())
        });
        answered.map(|()| groups).map_err(|error| error.to_string())
    }

    #[test]
    fn texts_are_given_or_read() {
        assert_eq!(groups(&["1", "2", "3"], "9", 2).unwrap(), [vec![1, 2], vec![3]]);
        assert_eq!(groups(&[], "4\n5\r\n6\n7", 2).unwrap(), [[4, 5], [6, 7]]);
        assert_eq!(groups(&[], "", 2).unwrap(), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn what_is_wrong_is_told_by_its_number() {
        assert_eq!(groups(&[], "4\n5\nx", 2).unwrap_err(), "text 3: invalid digit found in string");
        let (mut answered, texts) = (vec![], Texts { given: &[], input: &b"4\n5\n6\nx\n7"[..], batch: 2 });
        let result = texts.answer(parse, |group| {
            answered.extend_from_slice(group);
            Ok(())
        });
        assert_eq!((answered, result.is_err()), (vec![4, 5, 6], true));
        let given = ["1".to_owned(), "x".to_owned()];
        let texts = Texts { given: &given, input: &b""[..], batch: 1 };
        assert_eq!(texts.check(parse).unwrap_err().to_string(), "text 2: invalid digit found in string");
        let texts = Texts { given: &[], input: &b"1\n\xff"[..], batch: 4 };
        let error = texts.answer(parse, |_| Ok(())).unwrap_err().to_string();
        assert!(error.starts_with("text 2: standard input: "), "{error}");
    }
}
